"""The command ``modelforge``; `modelforge.cli.main` reads its arguments. Imports no torch."""

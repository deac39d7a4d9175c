"""``python -m modelforge.cli``: the command, for a launcher of several processes."""

from modelforge.cli.main import main

main()

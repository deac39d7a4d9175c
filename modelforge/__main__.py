"""``python -m modelforge``: the command, also for a launcher of several processes."""

from modelforge.cli.main import main

main()

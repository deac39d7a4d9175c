"""The built-in strategies, one a file. The registry finds them; nobody imports them by name."""

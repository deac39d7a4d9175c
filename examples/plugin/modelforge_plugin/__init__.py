"""What this package adds to ModelForge; nothing is imported before a config names it."""

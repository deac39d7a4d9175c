"""What the machine has, and what follows from it."""

"""A trained model used: answers to prompts of a file, and a chat in the terminal."""

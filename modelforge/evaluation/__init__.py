"""What a run came to: figures, samples, card and report."""

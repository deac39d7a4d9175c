"""What listens to a trainer: what is written, shown, sent, measured and warned of."""

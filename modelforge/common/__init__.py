"""What every room may use: what is said, which process this is, whole files."""

"""Checkpoints that are whole or not there, and trainers that resume from them exactly."""

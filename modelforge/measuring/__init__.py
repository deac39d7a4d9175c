"""Held-out figures as properties of model and data: row by row, and how sure they are."""

"""Exports of trained models, each held against the model as it was trained."""

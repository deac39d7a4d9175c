"""Configs of other trainers become configs of ours, and nothing of them vanishes unsaid."""

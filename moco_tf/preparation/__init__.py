"""Data sources at a bounded size, in a few large files that are fast to read."""

"""Data sources, decoding, augmentation and batches of two views."""

"""Evaluation protocols: what a backbone's features are worth on labeled images."""

"""Backbones: loading, saving and describing them."""

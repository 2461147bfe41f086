"""From images on disk to batches of two views."""

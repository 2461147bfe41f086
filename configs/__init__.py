"""Pre-training recipes, one file each."""

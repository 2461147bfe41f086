"""Pre-training recipes: each file defines `get_config()`."""

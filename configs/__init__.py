"""Pre-training recipes. Each file defines `get_config()`."""

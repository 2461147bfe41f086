"""Features of whole image collections, in files that other programs read."""

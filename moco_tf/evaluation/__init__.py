"""Protocols that evaluate a backbone on labeled images."""

"""Command-line interface: flags, error reporting and console commands."""

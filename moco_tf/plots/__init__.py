"""Pictures of runs, features and data."""

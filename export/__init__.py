"""Export formats for a trained backbone, one module per format."""

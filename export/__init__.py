"""Export formats for a trained backbone, one module for each format.

The modules can also be run as scripts, such as `python export/saved_model.py --help`.
"""

"""Evaluate a backbone on labeled images; `python evaluate.py --help` says how."""

import sys

from moco_tf.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())

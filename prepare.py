"""Shrink images and write them to a few large files; `python prepare.py --help` says how."""

import sys

from moco_tf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main())

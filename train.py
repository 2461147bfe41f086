"""Pre-train an encoder with MoCo; `python train.py --help` says how."""

import sys

from moco_tf.cli.train import main

if __name__ == "__main__":
    sys.exit(main())

"""Write the features of all images of a collection; `python embed.py --help` says how."""

import sys

from moco_tf.cli.embed import main

if __name__ == "__main__":
    sys.exit(main())

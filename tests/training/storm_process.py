"""A process of test_storm.py. Its imports happen once, in the server that forks the processes."""

import os
import sys

import moco_tf.cli.train
import moco_tf.training.run  # Imported here and not by the command, for every process at once.

__all__ = ["train"]


def train(arguments, environment, log):
    """Run train.py with its output in a file, and exit with its status."""
    os.environ.update(environment)
    output = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout = sys.stderr = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.exit(moco_tf.cli.train.main(arguments))

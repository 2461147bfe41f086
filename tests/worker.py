"""Runs train.py as one worker of several, on two logical devices of the CPU.

    TF_CONFIG=... python -m tests.worker --strategy=multiworker [flags of train.py]

TensorFlow's strategy takes all GPUs of a worker, but of its CPU one device only; everything else is
as a person would start it.
"""

from moco_tf.cli import app  # noqa: F401, first: it quiets TensorFlow's start

from tensorflow.python.distribute import collective_all_reduce_strategy  # isort: skip

import train
from moco_tf import distribution

DEVICES = 2


def logical_devices(self, cluster_resolver, worker_device):
    return tuple(f"{worker_device}/device:CPU:{i}" for i in range(DEVICES)), "CPU"


def take_two_devices():
    """Must come before TensorFlow's first operation."""
    distribution.split_cpu(DEVICES)
    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    extended._initialize_local_devices = logical_devices


if __name__ == "__main__":
    take_two_devices()
    app.run(train.main)

"""Runs moco-train as one of several workers, on two logical devices of the CPU.

    TF_CONFIG=... python -m tests.worker --strategy=multiworker [flags of moco-train]

TensorFlow's strategy takes all GPUs of a worker but only one device of its CPU. Apart from that,
everything is as in `python train.py`.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf
from tensorflow.python.distribute import collective_all_reduce_strategy

from moco_tf import distribution
from moco_tf.cli import train

tf.get_logger().setLevel("ERROR")
DEVICES = 2


def logical_devices(self, cluster_resolver, worker_device):
    return tuple(f"{worker_device}/device:CPU:{i}" for i in range(DEVICES)), "CPU"


def take_two_devices():
    """Split the CPU; call it before TensorFlow's first operation."""
    distribution.split_cpu(DEVICES)
    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    extended._initialize_local_devices = logical_devices


if __name__ == "__main__":
    take_two_devices()
    sys.exit(train.main())

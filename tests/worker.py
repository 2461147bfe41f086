"""A worker with two logical devices of the CPU, for `tests.replicas --multiworker`.

TensorFlow's strategy takes all GPUs of a worker, but only one device of its CPU.
"""

from tensorflow.python.distribute import collective_all_reduce_strategy

from moco_tf import strategies

DEVICES = 2


def logical_devices(self, cluster_resolver, worker_device):
    return tuple(f"{worker_device}/device:CPU:{i}" for i in range(DEVICES)), "CPU"


def take_two_devices():
    """Split the CPU; call it before TensorFlow's first operation."""
    strategies.split_cpu(DEVICES)
    extended = collective_all_reduce_strategy.CollectiveAllReduceExtended
    extended._initialize_local_devices = logical_devices

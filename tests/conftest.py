"""TensorFlow as the tests need it: quiet, and with two devices, so that replicas can be several."""

import gc

import pytest

from moco_tf import command_line  # noqa: F401, first: it quiets TensorFlow's start

import tensorflow as tf  # isort: skip

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests: two of them in a process would count their collectives alike."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    """Keras' models lie in cycles of references, and some files build gigabytes of them."""
    yield
    gc.collect()

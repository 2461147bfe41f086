"""TensorFlow as the tests need it: quiet, and with two devices, so that replicas can be several."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pytest  # noqa: E402
import tensorflow as tf  # noqa: E402

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests: two of them in a process would count their collectives alike."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

"""TensorFlow as the tests need it: quiet, and with two devices, so that replicas can be several."""

import gc
import os

import pytest

# The tests are two at a time already; here and in the processes that they start, TensorFlow's own
# threads would only wait for each other.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

from moco_tf.cli import app  # noqa: F401, first: it quiets TensorFlow's start

import tensorflow as tf  # isort: skip

[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


# Few tests of minutes each: begun last, they would keep one core busy and leave the other idle.
LONG = ("test_multiworker", "test_equivalence", "test_configs", "test_precision", "test_scripts")


def pytest_collection_modifyitems(items):
    """Long files first."""
    items.sort(key=lambda item: item.path.stem not in LONG)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests: two of them in a process would count their collectives alike."""
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="module", autouse=True)
def memory_given_back():
    """Keras' models lie in cycles of references, and some files build gigabytes of them."""
    yield
    gc.collect()

"""`make gpu-check`: it finds operations without a GPU kernel, and only those."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf.distribution import to_bytes, to_integers
from moco_tf.mechanisms import shuffling
from tests import gpu_check

IMAGES = tf.TensorSpec([64, 32, 32, 3], tf.uint8)


@pytest.fixture(autouse=True)
def policy():
    yield
    keras.config.set_dtype_policy("float32")


def found_in(function, *specs):
    return gpu_check.host_operations(tf.function(function).get_concrete_function(*specs).graph)


def test_gather_of_bytes_is_found_in_a_called_function():
    gather = tf.function(lambda images: tf.gather(images, tf.range(63, -1, -1)))
    [operation] = found_in(lambda images: gather(images) + 1, IMAGES)
    assert operation.type == "GatherV2"
    assert operation.reason == "no GPU kernel"
    assert operation.num_bytes == 64 * 32 * 32 * 3


def test_sum_of_integers_is_found():
    specs = tf.TensorSpec([64, 4096], tf.int32), tf.TensorSpec([64, 4096], tf.float32)
    [operation] = found_in(lambda i, x: (tf.reduce_sum(i, 1), tf.reduce_sum(x, 1)), *specs)
    assert operation.type == "Sum"
    assert "memory of the host" in operation.reason


def test_what_xla_compiles_is_left_out():
    gather = tf.function(lambda images: tf.gather(images, tf.range(63, -1, -1)), jit_compile=True)
    assert found_in(gather, IMAGES) == []


@pytest.mark.parametrize("side", [5, 8])
def test_bytes_as_integers_are_shuffled_like_bytes(side):
    images = np.random.default_rng(0).integers(0, 256, [6, side, side, 3], np.uint8)
    integers = to_integers(tf.constant(images))
    assert integers.shape == [6, -(-side * side * 3 // 8)]
    np.testing.assert_array_equal(to_bytes(integers, images.shape), images)
    order = np.array([3, 1, 5, 0, 4, 2], np.int32)
    shuffled, rows = shuffling.shuffle(tf.constant(images), tf.constant(order))
    np.testing.assert_array_equal(shuffled, images[order])
    np.testing.assert_array_equal(rows, order)


@pytest.mark.nightly
def test_check_prints_each_part_and_fails_for_host_operations(capsys, monkeypatch):
    monkeypatch.setattr(gpu_check, "VARIANTS", {"photos": {}})
    monkeypatch.setattr(gpu_check, "linear_graphs", gpu_check.knn_graphs)
    assert gpu_check.main() == 0
    lines = capsys.readouterr().out.splitlines()
    parts = [line.partition(":")[0] for line in lines if "operations, " in line]
    assert parts == ["photos", "kNN", "linear protocol"]
    reads = lines[next(i for i, line in enumerate(lines) if line.startswith("results that")) + 1 :]
    assert [line.partition(":")[0] for line in reads] == [f"  step {n}" for n in (1, 5, 8, 10, 12)]

    monkeypatch.setattr(shuffling, "to_integers", lambda x: x)
    monkeypatch.setattr(shuffling, "to_bytes", lambda x, shape: x)
    assert gpu_check.main() == 1
    assert "  GatherV2 " in capsys.readouterr().out

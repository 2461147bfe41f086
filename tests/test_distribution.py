import numpy as np
import pytest
import tensorflow as tf

from moco_tf.distribution import all_gather, own_rows


def on_replicas(strategy, function, values):
    """Runs `function` on two replicas, each with its half of `values`; returns both results."""
    halves = np.split(values, 2)

    def half(context):
        return tf.constant(halves[context.replica_id_in_sync_group])

    inputs = strategy.experimental_distribute_values_from_function(half)
    results = tf.function(lambda: strategy.run(function, args=(inputs,)))()
    return [result.numpy() for result in strategy.experimental_local_results(results)]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_all_gather_gives_every_replica_the_global_batch(two_replicas, dtype):
    values = np.arange(256).reshape(8, 4, 8).astype(dtype)  # uint8: every value there is

    def gather(x):
        gathered = all_gather(x)
        assert gathered.shape == (8, 4, 8) and gathered.dtype == dtype
        return gathered

    for found in on_replicas(two_replicas, gather, values):
        np.testing.assert_array_equal(found, values)


def test_own_rows_are_where_the_replica_stands_in_the_global_batch(two_replicas):
    rows = on_replicas(two_replicas, lambda x: own_rows(x.shape[0]), np.zeros(6))
    assert [list(r) for r in rows] == [[0, 1, 2], [3, 4, 5]]


def test_one_replica_needs_no_collective():
    x = tf.range(6)
    assert all_gather(x) is x
    assert list(own_rows(6).numpy()) == list(range(6))

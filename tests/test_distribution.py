"""What replicas tell each other, on two logical devices of the CPU."""

import collections
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo, distribution
from moco_tf.data.augment import Augment
from moco_tf.data.recipes import RECIPES
from moco_tf.distribution import all_gather, own_rows
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.optimizers import SGD


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


@pytest.mark.parametrize("shape", [(2, 3, 3), (4, 5), (6, 1), (2, 2, 2, 4), (4, 17)])
def test_bytes_of_any_number_are_gathered_whole(two_replicas, shape):
    # They travel by eights.
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for found in on_replicas(two_replicas, all_gather, values):
        np.testing.assert_array_equal(found, values)


def test_a_step_gathers_images_and_keys_once_each_and_sums_the_gradient_once(two_replicas):
    def encoder():
        images = keras.Input((8, 8, 3))
        x = BatchNormalization(2)(images)
        return keras.Model(images, keras.layers.Dense(5)(keras.layers.Flatten()(x)))

    with two_replicas.scope():
        augment = Augment(RECIPES["v1"])
        model = MoCo(encoder, queue_size=10, augment=augment)
        model.compile(SGD(0.1))
    views = np.zeros((2, 8, 8, 8, 3), np.uint8)
    data = tf.data.Dataset.from_tensors(tuple(views)).unbatch().batch(8, drop_remainder=True)
    batch = next(iter(two_replicas.experimental_distribute_dataset(data)))
    step = tf.function(lambda batch: two_replicas.run(model.train_step, args=(batch,)))
    operations = step.get_concrete_function(batch).graph.get_operations()
    kinds = collections.Counter(
        (operation.type, operation.inputs[0].dtype.name)
        for operation in operations
        if operation.type.startswith("Collective")
    )
    replicas = 2
    assert kinds == {
        ("CollectiveGatherV2", "int64"): replicas,  # images
        ("CollectiveGatherV2", "float32"): replicas,  # keys
        ("CollectiveGatherV2", "int32"): 2
        * replicas,  # the shapes of both, which TensorFlow compares
        ("CollectiveReduceV2", "float32"): replicas,  # gradients, packed into one
    }


def test_own_rows_are_where_the_replica_stands_in_the_global_batch(two_replicas):
    rows = on_replicas(two_replicas, lambda x: own_rows(x.shape[0]), np.zeros(6))
    assert [list(r) for r in rows] == [[0, 1, 2], [3, 4, 5]]


def test_one_replica_needs_no_collective():
    x = tf.range(6)
    assert all_gather(x) is x
    assert list(own_rows(6).numpy()) == list(range(6))


WORKERS = ["127.0.0.1:1", "127.0.0.1:2"]


def cluster(kind, index, **jobs):
    return json.dumps({"cluster": jobs, "task": {"type": kind, "index": index}})


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("worker:", "Expecting value"),
        (cluster("worker", 2, worker=WORKERS), "worker 2 is not among"),
        (cluster("chief", 0, worker=WORKERS), "chief 0 is not among"),
        (cluster("evaluator", 0, worker=WORKERS, evaluator=WORKERS), "evaluator 0 is not among"),
        (cluster("worker", "first", worker=WORKERS), "first"),
        ("{}", "not among"),
    ],
)
def test_a_cluster_that_is_not_described_is_an_error(monkeypatch, config, words):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match=f"multiworker finds no cluster: .*{words}.*README"):
        distribution.make_strategy("multiworker")


@pytest.mark.parametrize(
    ("jobs", "chiefs"),
    [
        ({"worker": WORKERS}, [("worker", 0)]),
        ({"chief": ["127.0.0.1:3"], "worker": WORKERS}, [("chief", 0)]),
    ],
)
def test_one_worker_is_the_chief(monkeypatch, jobs, chiefs):
    tasks = [(kind, index) for kind in jobs for index in range(len(jobs[kind]))]
    found = []
    monkeypatch.setattr(distribution, "several_workers", lambda: True)
    for kind, index in tasks:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(jobs), task_type=kind, task_id=index
        )
        strategy = types.SimpleNamespace(cluster_resolver=resolver)
        monkeypatch.setattr(tf.distribute, "get_strategy", lambda strategy=strategy: strategy)
        if distribution.is_chief():
            found.append((kind, index))
    assert found == chiefs


@pytest.mark.parametrize(
    ("machines", "tasks", "expected"),
    [
        # Their names sort differently from their numbers.
        ("node[2,10]", "1(x2)", ["node2:24567", "node10:24567"]),
        ("gpu1", "2", ["gpu1:24567", "gpu1:24568"]),
        (
            "node[9-11]",
            "2(x2),1",
            ["node9:24567", "node9:24568", "node10:24567", "node10:24568", "node11:24567"],
        ),
    ],
)
def test_slurm_tells_each_task_its_address_and_all_tasks_the_same_cluster(
    monkeypatch, machines, tasks, expected
):
    found, before = [], None
    for number, address in enumerate(expected):
        machine, port = address.split(":")
        variables = {
            "SLURM_JOB_ID": 1234567,
            "SLURM_STEP_NODELIST": machines,
            "SLURM_STEP_NUM_TASKS": len(expected),
            "SLURM_STEP_TASKS_PER_NODE": tasks,
            "SLURM_PROCID": number,
            "SLURMD_NODENAME": machine,
            "SLURM_LOCALID": int(port) - 24567,
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        told = distribution._slurm_cluster()
        assert before in (None, told["cluster"])
        before = told["cluster"]
        assert told["task"]["type"] == "worker"
        found.append(told["cluster"]["worker"][told["task"]["index"]])
    assert found == expected

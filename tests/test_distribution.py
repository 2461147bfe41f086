"""Strategies, and communication between replicas, on two logical devices of the CPU."""

import collections
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo, distribution
from moco_tf.distribution import all_gather, replica_rows
from moco_tf.encoders.normalization import BatchNormalization
from moco_tf.errors import UserError
from moco_tf.optimizers import SGD


def run_on_replicas(strategy, function, values):
    """Run `function` on two replicas, each with its half of `values`, and return both results."""
    halves = np.split(values, 2)

    def half(context):
        return tf.constant(halves[context.replica_id_in_sync_group])

    inputs = strategy.experimental_distribute_values_from_function(half)
    results = tf.function(lambda: strategy.run(function, args=(inputs,)))()
    return [result.numpy() for result in strategy.experimental_local_results(results)]


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_all_gather_returns_the_global_batch_on_every_replica(two_replicas, dtype):
    values = np.arange(256).reshape(8, 4, 8).astype(dtype)  # all values of uint8

    def gather(x):
        gathered = all_gather(x)
        assert gathered.shape == (8, 4, 8)
        assert gathered.dtype == dtype
        return gathered

    for result in run_on_replicas(two_replicas, gather, values):
        np.testing.assert_array_equal(result, values)


# uint8 is sent as integers of eight bytes.
@pytest.mark.parametrize("shape", [(2, 3, 3), (4, 5), (6, 1), (2, 2, 2, 4), (4, 17)])
def test_all_gather_takes_any_number_of_bytes(two_replicas, shape):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for result in run_on_replicas(two_replicas, all_gather, values):
        np.testing.assert_array_equal(result, values)


def test_step_gathers_images_and_keys_once_and_reduces_gradients_once(two_replicas):
    """The documentation states this communication; TensorFlow also compares the shapes."""

    def build_encoder():
        images = keras.Input((8, 8, 3))
        x = BatchNormalization(2)(images)
        return keras.Model(images, keras.layers.Dense(5)(keras.layers.Flatten()(x)))

    def augment(images, rows, count, seed):
        return tf.cast(images, tf.float32)

    with two_replicas.scope():
        model = MoCo(build_encoder, queue_size=10, augment=augment)
        model.compile(SGD(0.1))
    views = np.zeros((2, 8, 8, 8, 3), np.uint8)
    data = tf.data.Dataset.from_tensors(tuple(views)).unbatch().batch(8, drop_remainder=True)
    batch = next(iter(two_replicas.experimental_distribute_dataset(data)))
    step = tf.function(lambda batch: two_replicas.run(model.train_step, args=(batch,)))
    counts = collections.Counter(
        (operation.type, operation.inputs[0].dtype.name)
        for operation in step.get_concrete_function(batch).graph.get_operations()
        if operation.type.startswith("Collective")
    )
    del counts["CollectiveGatherV2", "int32"]  # the shapes
    replicas = 2
    assert counts == {
        ("CollectiveGatherV2", "int64"): replicas,  # images
        ("CollectiveGatherV2", "float32"): replicas,  # keys
        ("CollectiveReduceV2", "float32"): replicas,  # gradients of all parameters
    }


def test_replica_rows_are_the_rows_in_the_global_batch(two_replicas):
    rows = run_on_replicas(two_replicas, lambda x: replica_rows(x.shape[0]), np.zeros(6))
    assert [list(r) for r in rows] == [[0, 1, 2], [3, 4, 5]]


def test_one_replica_needs_no_collective():
    x = tf.range(6)
    assert all_gather(x) is x
    assert list(replica_rows(6).numpy()) == list(range(6))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("parallel",), "'parallel': choose default, mirrored, multiworker or tpu"),
        (("mirrored", "node-1"), "'node-1' requires the strategy 'tpu', not 'mirrored'"),
        (("tpu",), "requires the name of the TPU, or 'local'"),
        (("tpu", "local"), "'local' requires TensorFlow's build for TPUs"),
    ],
)
def test_unusable_strategy_is_an_error(arguments, message):
    with pytest.raises(UserError, match=message):
        distribution.make_strategy(*arguments)


def test_splitting_the_cpu_into_no_devices_is_an_error():
    with pytest.raises(UserError, match="into 0 devices: the number must be at least 1"):
        distribution.split_cpu(0)


WORKERS = ["127.0.0.1:1", "127.0.0.1:2"]


def tf_config(task_type, index, **jobs):
    return json.dumps({"cluster": jobs, "task": {"type": task_type, "index": index}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("worker:", "Expecting value"),
        (tf_config("worker", 2, worker=WORKERS), "worker 2 is not among"),
        (tf_config("chief", 0, worker=WORKERS), "chief 0 is not among"),
        (tf_config("evaluator", 0, worker=WORKERS, evaluator=WORKERS), "evaluator 0 is not among"),
        (tf_config("worker", "first", worker=WORKERS), "first"),
        ("{}", "not among"),
    ],
)
def test_unusable_cluster_is_an_error(monkeypatch, config, message):
    monkeypatch.setenv("TF_CONFIG", config)
    with pytest.raises(UserError, match=f"'multiworker' found no cluster: .*{message}.*TF_CONFIG"):
        distribution.make_strategy("multiworker")


def test_missing_cluster_is_an_error(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    with pytest.raises(UserError, match="neither TF_CONFIG nor Slurm's 'SLURM_STEP_NUM_TASKS' is"):
        distribution.make_strategy("multiworker")


@pytest.mark.parametrize(
    ("jobs", "chiefs"),
    [
        ({"worker": WORKERS}, [("worker", 0)]),
        ({"chief": ["127.0.0.1:3"], "worker": WORKERS}, [("chief", 0)]),
    ],
)
def test_exactly_one_worker_is_the_chief(monkeypatch, jobs, chiefs):
    tasks = [(job, index) for job in jobs for index in range(len(jobs[job]))]
    chief_tasks = []
    monkeypatch.setattr(distribution, "several_workers", lambda: True)
    for job, index in tasks:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(jobs), task_type=job, task_id=index
        )
        strategy = types.SimpleNamespace(cluster_resolver=resolver)
        monkeypatch.setattr(tf.distribute, "get_strategy", lambda strategy=strategy: strategy)
        if distribution.is_chief():
            chief_tasks.append((job, index))
    assert chief_tasks == chiefs


@pytest.mark.parametrize(
    ("machines", "tasks", "expected"),
    [
        # These names sort differently from their numbers.
        ("node[2,10]", "1(x2)", ["node2:24567", "node10:24567"]),
        ("gpu1", "2", ["gpu1:24567", "gpu1:24568"]),
        (
            "node[9-11]",
            "2(x2),1",
            ["node9:24567", "node9:24568", "node10:24567", "node10:24568", "node11:24567"],
        ),
    ],
)
def test_slurm_gives_all_tasks_the_same_cluster_and_each_its_address(
    monkeypatch, machines, tasks, expected
):
    addresses, clusters = [], []
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
        config = distribution._slurm_cluster()
        clusters.append(config["cluster"])
        assert config["task"]["type"] == "worker"
        addresses.append(config["cluster"]["worker"][config["task"]["index"]])
    assert addresses == expected
    assert all(cluster == clusters[0] for cluster in clusters)

"""Which worker is the chief, what workers agree on, and whether one has stopped."""

import contextlib
import json
import types
import zlib

import pytest
import tensorflow as tf

from moco_tf import workers
from moco_tf.errors import UserError

WORKERS = ["127.0.0.1:1", "127.0.0.1:2"]


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
    monkeypatch.setattr(workers, "several_workers", lambda: True)
    for job, index in tasks:
        resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
            tf.train.ClusterSpec(jobs), task_type=job, task_id=index
        )
        strategy = types.SimpleNamespace(cluster_resolver=resolver)
        monkeypatch.setattr(tf.distribute, "get_strategy", lambda strategy=strategy: strategy)
        if workers.is_chief():
            chief_tasks.append((job, index))
    assert chief_tasks == chiefs


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"a": 1, "b": 3}, "^the workers differ in b: on this one, it is 2. Start all workers"),
        ({"a": 1}, "^the workers differ in the version of moco-tf"),
        ({"a": 1, "b": 2}, None),
    ],
)
def test_fact_that_differs_is_named(other, message, monkeypatch):
    facts, others = {"a": 1, "b": 2}, []
    monkeypatch.setattr(workers, "several_workers", lambda: True)
    # The order of the comparisons: the names, all values, and each value if these differ.
    for value in (list(other), list(other.values()), *other.values()):
        others.append(zlib.crc32(json.dumps(value).encode()))
    monkeypatch.setattr(workers, "gather_from_workers", lambda number: [number, others.pop(0)])
    with pytest.raises(UserError, match=message) if message else contextlib.nullcontext():
        workers.require_same(facts)


@pytest.mark.parametrize(
    ("error", "is_gone"),
    [
        # Messages of TensorFlow 2.21.
        (tf.errors.UnavailableError(None, None, "reset by peer\n [[{{node allgather}}]]"), True),
        (tf.errors.AbortedError(None, None, "aborted [Op:CollectiveGatherV2]"), True),
        (tf.errors.InternalError(None, None, "Collective ops is aborted by: ..."), True),
        (tf.errors.UnavailableError(None, None, "/nfs/run/metrics.jsonl; Network is down"), False),
        (tf.errors.FailedPreconditionError(None, None, "/a/b; Not a directory"), False),
        (tf.errors.AbortedError(None, None, "/nfs/x; Stale file handle [Op:SaveV2]"), False),
        (tf.errors.InternalError(None, None, "[Op:Conv2D]"), False),
        (OSError("Stale file handle"), False),
    ],
)
def test_error_of_a_lost_worker_is_told_from_one_of_a_file(error, is_gone, monkeypatch):
    assert not workers.worker_is_gone(error)  # There is one worker.
    monkeypatch.setattr(workers, "several_workers", lambda: True)
    assert workers.worker_is_gone(error) == is_gone

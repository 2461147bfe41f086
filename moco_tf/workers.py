"""The workers of a strategy: which one writes, whether they agree, and whether one has stopped."""

import contextlib
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from moco_tf import gpus
from moco_tf.errors import UserError

# What a collective raises if a worker has died.
ERRORS_OF_A_LOST_WORKER = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError,
)
# How messages name an operation, or a process that it communicates with.
OPERATION = re.compile(r"\[Op:|\{\{node|/job:")
FILE_OPERATION = re.compile("SaveV2|RestoreV2|MergeV2Checkpoints|ReadFile")


def several_workers() -> bool:
    """Return whether several processes share the current strategy."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def is_chief() -> bool:
    """Return whether this process is the one that writes files and prints for all workers."""
    if not several_workers():
        return True
    cluster = tf.distribute.get_strategy().cluster_resolver
    if cluster.task_type == "worker" and "chief" in cluster.cluster_spec().jobs:
        return False
    return cluster.task_id == 0


def task_id() -> int:
    """Return the number of this worker among those of its type; 0 without several workers."""
    if not several_workers():
        return 0
    return tf.distribute.get_strategy().cluster_resolver.task_id


def worker_is_gone(error: Exception) -> bool:
    """Return whether an error is of the kind that a collective raises if a worker has died.

    File systems raise the same exceptions, for example if a network drive cannot be reached. Their
    messages name no operation, or one that reads or writes files.
    """
    if not several_workers() or not isinstance(error, tf.errors.OpError):
        return False
    message = str(error)
    return "Collective ops is aborted" in message or (
        isinstance(error, ERRORS_OF_A_LOST_WORKER)
        and OPERATION.search(message) is not None
        and FILE_OPERATION.search(message) is None
    )


@contextlib.contextmanager
def scope(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Enter the scope of a strategy, and report in one line if another worker has stopped.

    Raises:
        UserError: If another worker has stopped, or XLA cannot compile for a GPU of this machine.
    """
    gpus.require_supported()
    with strategy.scope():
        try:
            yield
        except tf.errors.OpError as error:
            if not worker_is_gone(error):
                raise
            match = re.search(r"remote target \S+/task:(\d+)", str(error))
            worker = f"worker {match.group(1)}" if match else "another worker"
            raise UserError(
                f"{worker} has stopped: start all workers again with the same command"
            ) from error


def gather_from_workers(number: int) -> list[int]:
    """Return the numbers that the workers call this function with.

    Every worker has to call it at the same point of the program.

    Args:
        number: The number of this worker.

    Returns:
        The same list on every worker, with one number for each replica.
    """
    strategy = tf.distribute.get_strategy()
    if not several_workers():
        return [number]
    numbers = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant([number], tf.int64)
    )
    return [int(gathered) for gathered in strategy.gather(numbers, axis=0)]


def require_same(
    facts: Mapping[str, Any],
    remedy: str = (
        "Start all workers with the same settings and images, and with a run directory that they "
        "share"
    ),
) -> None:
    """Raise a `UserError` if a fact is not the same on all workers.

    Every worker has to call it at the same point of the program.

    Args:
        facts: Values that can be written as JSON, by what they are.
        remedy: What to do if they differ, a sentence.
    """
    if not several_workers():
        return
    if not _is_same(list(facts)):
        raise UserError("the workers differ in the version of moco-tf: install the same one on all")
    if _is_same(list(facts.values())):
        return
    for name, value in facts.items():
        if not _is_same(value):
            raise UserError(
                f"the workers differ in {name}: on this one, it is {json.dumps(value):.300}. "
                f"{remedy}"
            )


def _is_same(value: Any) -> bool:
    """Return whether a value that can be written as JSON is the same on all workers."""
    return len(set(gather_from_workers(zlib.crc32(json.dumps(value).encode())))) == 1

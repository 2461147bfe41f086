"""Distribution strategies, and communication between replicas and between workers."""

import contextlib
import json
import math
import os
import re
import signal
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from moco_tf import gpus
from moco_tf.errors import UserError

STRATEGIES = ("default", "mirrored", "multiworker", "tpu")

# Workers reduce the gradients in parts of this size, which TensorFlow can send while the backward
# pass computes the next one. PyTorch's DistributedDataParallel has the same default.
GRADIENT_BYTES = 25 * 2**20


def make_strategy(name: str, tpu: str | None = None) -> tf.distribute.Strategy:
    """Return the `tf.distribute` strategy of a name.

    Args:
        name: One of the following:

            - `"default"`: one GPU if there is one, and the CPU otherwise.
            - `"mirrored"`: one replica on each GPU, or on each logical CPU device if there is no
              GPU.
            - `"multiworker"`: the same on several machines, which the environment variable
              `TF_CONFIG` or those of Slurm describe. Call this function before TensorFlow's first
              operation; it waits for the other workers.
            - `"tpu"`: one replica on each core of a TPU.
        tpu: Name of the TPU, or `"local"` for the TPU of this machine; with `"tpu"` only.

    Raises:
        UserError: If the name is unknown, the cluster is not described, or the TPU cannot be
            reached.
    """
    if tpu and name != "tpu":
        raise UserError(f"the TPU '{tpu}' requires the strategy 'tpu', not '{name}'")
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        device_type = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(device_type)]
        return tf.distribute.MirroredStrategy(devices)
    if name == "multiworker":
        return _multi_worker_strategy()
    if name == "tpu":
        return _tpu_strategy(tpu)
    choices = f"{', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}"
    raise UserError(f"unknown strategy '{name}': choose {choices}")


def _multi_worker_strategy() -> tf.distribute.Strategy:
    try:
        if "TF_CONFIG" not in os.environ:
            os.environ["TF_CONFIG"] = json.dumps(_slurm_cluster())
        cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        jobs, task = cluster.cluster_spec().as_dict(), (cluster.task_type, cluster.task_id)
        workers = [("chief", index) for index in range(len(jobs.get("chief", [])))]
        workers += [("worker", index) for index in range(len(jobs.get("worker", [])))]
        if task not in workers:
            raise ValueError(f"{task[0]} {task[1]} is not among its workers {workers}")
        print(
            f"worker {workers.index(task)} of {len(workers)}: waiting for the other workers",
            flush=True,
        )
        # With the default handler, Ctrl-C works at once. Python's handler would run after the wait.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(
                cluster_resolver=cluster,
                communication_options=tf.distribute.experimental.CommunicationOptions(
                    bytes_per_pack=GRADIENT_BYTES
                ),
            )
        finally:
            signal.signal(signal.SIGINT, interrupt)
    except (LookupError, TypeError, ValueError, RuntimeError, tf.errors.OpError) as error:
        reason = str(error)
        if isinstance(error, KeyError):
            reason = f"neither TF_CONFIG nor Slurm's {error} is set"
        raise UserError(
            f"the strategy 'multiworker' found no cluster: {reason}; describe the cluster in "
            "TF_CONFIG, or start the workers with srun"
        ) from None


def _slurm_cluster() -> dict[str, dict]:
    """Return the cluster of this step of a Slurm job in the format of TF_CONFIG."""
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=20000 + int(os.environ["SLURM_JOB_ID"]) % 10000,  # Jobs may share a machine.
        # Slurm has assigned the GPUs already; the resolver only checks that there are enough.
        gpus_per_node=tasks,
        gpus_per_task=1,
        auto_set_gpu=False,
    )
    workers = slurm.cluster_spec().as_dict()["worker"]
    # The resolver sorts the machines by name, node10 before node2, but Slurm numbers the tasks by
    # machine. The resolver's `task_id` would therefore be wrong, so this looks up the index by the
    # name of the machine and the number of the task on it.
    machine, local_id = os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_LOCALID"])
    indices = [index for index, worker in enumerate(workers) if worker.startswith(f"{machine}:")]
    return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": indices[local_id]}}


def _tpu_strategy(name: str | None) -> tf.distribute.Strategy:
    if not name:
        raise UserError(
            "the strategy 'tpu' requires the name of the TPU, or 'local' for the TPU of this "
            "machine"
        )
    try:
        cluster = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(cluster)
        tf.tpu.experimental.initialize_tpu_system(cluster)
        return tf.distribute.TPUStrategy(cluster)
    except (ImportError, OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        if "No OpKernel was registered" in str(error):
            raise UserError(
                f"the TPU '{name}' requires TensorFlow's build for TPUs, but the installed "
                f"TensorFlow {tf.__version__} is another build: in a checkout of moco-tf and a new "
                "virtual environment, run pip install ./requirements/tpu ."
            ) from error
        raise UserError(
            f"the TPU '{name}' cannot be reached: {error}; check its name and whether it is running"
        ) from error


def split_cpu(count: int) -> None:
    """Split the CPU into logical devices; call it before TensorFlow's first operation.

    Args:
        count: Number of logical devices.

    Raises:
        UserError: If `count` is below 1.
    """
    if count < 1:
        raise UserError(f"cannot split the CPU into {count} devices: the number must be at least 1")
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )


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


def require_same(facts: Mapping[str, Any]) -> None:
    """Raise a `UserError` if a fact is not the same on all workers.

    Every worker has to call it at the same point of the program.

    Args:
        facts: Values that can be written as JSON, by what they are.
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
                f"the workers differ in {name}: on this one, it is {json.dumps(value):.300}. Start "
                "all workers with the same settings and images, and with a run directory that they "
                "share"
            )


def _is_same(value: Any) -> bool:
    """Return whether a value that can be written as JSON is the same on all workers."""
    return len(set(gather_from_workers(zlib.crc32(json.dumps(value).encode())))) == 1


def num_replicas() -> int:
    """Return the number of replicas of the current strategy."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replicas_in_main_memory() -> int:
    """Return the number of replicas with variables in the main memory of this machine.

    It is 0 if there are GPUs or TPUs.
    """
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return 0
    if num_replicas() == 1:
        return 1
    return len(tf.distribute.get_strategy().extended.worker_devices)


def replica_rows(count: int) -> tf.Tensor:
    """Return the rows of the global batch that this replica has, int32 `[count]`.

    Args:
        count: Number of rows of each replica.
    """
    if num_replicas() == 1:
        return tf.range(count)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return replica * count + tf.range(count)


def all_gather(x: tf.Tensor) -> tf.Tensor:
    """Return `x` of all replicas as one global batch.

    Gradients pass: the gradient of `x` is the sum over the losses of all replicas.

    Args:
        x: `[n, ...]`, of the same shape on every replica.

    Returns:
        `[replicas * n, ...]`, in the order of the replicas and the same on each of them.
    """
    if num_replicas() == 1:
        return x
    shape = [num_replicas() * x.shape[0], *x.shape[1:]]
    if x.dtype == tf.uint8:  # Collectives do not support it.
        return to_bytes(all_gather(to_integers(x)), shape)
    replica = tf.distribute.get_replica_context()

    # TensorFlow's own gradient also gathers the number of rows, which is the same everywhere here.
    @tf.custom_gradient
    def gather(x: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def gradient(upstream: tf.Tensor) -> tf.Tensor:
            upstream = replica.all_reduce("SUM", tf.convert_to_tensor(upstream))
            return tf.gather(upstream, replica_rows(x.shape[0]))

        # `all_gather` requires a tensor on a device, and the argument of a function is on none.
        return tf.ensure_shape(replica.all_gather(tf.identity(x), axis=0), shape), gradient

    return gather(x)


def to_integers(x: tf.Tensor) -> tf.Tensor:
    """Return the rows of bytes as rows of longer integers, which every device can gather.

    Args:
        x: uint8 `[n, ...]`.

    Returns:
        int64 `[n, M]`, or int32 on TPUs. `to_bytes` is the inverse.

    Example:
        >>> integers = to_integers(tf.zeros([4, 3, 3, 3], tf.uint8))
        >>> integers.shape, to_bytes(integers, [4, 3, 3, 3]).dtype
        (TensorShape([4, 4]), tf.uint8)
    """
    # TPUs sum int32, but MirroredStrategy would send int32 through a single device.
    on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
    dtype = tf.int32 if on_tpu else tf.int64
    rows = tf.reshape(x, [x.shape[0], -1])
    if missing := -rows.shape[1] % dtype.size:
        rows = tf.pad(rows, [[0, 0], [0, missing]])
    return tf.bitcast(tf.reshape(rows, [x.shape[0], -1, dtype.size]), dtype)


def to_bytes(integers: tf.Tensor, shape: Sequence[int]) -> tf.Tensor:
    """Return rows of integers as the bytes that `to_integers` was called with.

    Args:
        integers: `[n, M]`.
        shape: Shape of the bytes, `[n, ...]`.

    Returns:
        uint8 of that shape.
    """
    rows = tf.reshape(tf.bitcast(integers, tf.uint8), [shape[0], -1])
    return tf.reshape(rows[:, : math.prod(shape[1:])], shape)

"""The strategies of `tf.distribute` by name, and the clusters and devices that they need."""

import contextlib
import json
import os
import signal
import threading
from collections.abc import Iterator

import tensorflow as tf

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
        with _interruptible():
            return _multi_worker_strategy()
    if name == "tpu":
        return _tpu_strategy(tpu)
    choices = f"{', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}"
    raise UserError(f"unknown strategy '{name}': choose {choices}")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let Ctrl-C end the process at once, where Python's handler would run after the wait."""
    handler = signal.getsignal(signal.SIGINT)
    # Python changes handlers in the main thread only, and cannot restore one that C code installed.
    # An interrupt that is ignored stays so, as in a job in the background.
    is_main = threading.current_thread() is threading.main_thread()
    if handler in (None, signal.SIG_IGN) or not is_main:
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


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
        return tf.distribute.MultiWorkerMirroredStrategy(
            cluster_resolver=cluster,
            communication_options=tf.distribute.experimental.CommunicationOptions(
                bytes_per_pack=GRADIENT_BYTES
            ),
        )
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

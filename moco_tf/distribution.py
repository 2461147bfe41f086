"""Replicas: the strategy that runs them, and what one of them needs to know of the others."""

import contextlib
import json
import os
import re
import signal

import tensorflow as tf

from moco_tf.errors import UserError

STRATEGIES = ("default", "mirrored", "multiworker", "tpu")


def make_strategy(name, tpu=None):
    """The `tf.distribute` strategy behind `--strategy`.

    Args:
        name: "default", one GPU if there is one and the CPU otherwise; "mirrored", one replica on
            each GPU, or on each logical CPU device where there is no GPU; "multiworker", the same
            on several machines, which TF_CONFIG names, or Slurm; "tpu", one on each core of a TPU.
            "multiworker" must come before TensorFlow's first operation, and waits for the others.
        tpu: str, the name of the TPU, or "local" for that of this machine; for "tpu" alone.

    Raises:
        UserError: an unknown name, a cluster that is not described, a TPU that cannot be reached.
    """
    if tpu and name != "tpu":
        raise UserError(f"--tpu={tpu} is for --strategy=tpu, and it is --strategy={name}")
    if name == "default":
        return tf.distribute.get_strategy()
    if name == "mirrored":
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        devices = [device.name for device in tf.config.list_logical_devices(kind)]
        return tf.distribute.MirroredStrategy(devices)
    if name == "multiworker":
        return _multi_worker()
    if name == "tpu":
        return _tpu(tpu)
    raise UserError(f"--strategy={name}: choose {', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}")


def _multi_worker():
    try:
        if "TF_CONFIG" not in os.environ:
            os.environ["TF_CONFIG"] = json.dumps(_slurm_cluster())
        cluster = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        jobs, me = cluster.cluster_spec().as_dict(), (cluster.task_type, cluster.task_id)
        workers = [("chief", i) for i in range(len(jobs.get("chief", [])))]
        workers += [("worker", i) for i in range(len(jobs.get("worker", [])))]
        if me not in workers:
            raise ValueError(f"{me[0]} {me[1]} is not among its workers {workers}")
        number = f"worker {workers.index(me)} of 0 to {len(workers) - 1}"
        print(f"{number}: waiting for the others", flush=True)
        # Ctrl-C acts at once, where Python would hear of it only after the wait.
        interrupt = signal.signal(signal.SIGINT, signal.SIG_DFL)
        try:
            return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=cluster)
        finally:
            signal.signal(signal.SIGINT, interrupt)
    except (LookupError, TypeError, ValueError, RuntimeError, tf.errors.OpError) as error:
        if isinstance(error, KeyError):
            error = f"neither TF_CONFIG nor Slurm's {error} is set"
        raise UserError(
            f"--strategy=multiworker finds no cluster: {error}; see 'Several machines' in the "
            "README"
        ) from None


def _slurm_cluster():
    """The cluster of this step of a Slurm job, as TF_CONFIG would say it."""
    tasks = int(os.environ["SLURM_STEP_NUM_TASKS"])
    slurm = tf.distribute.cluster_resolver.SlurmClusterResolver(
        port_base=20000 + int(os.environ["SLURM_JOB_ID"]) % 10000,  # jobs may share a machine
        # Slurm gave out the GPUs already; the resolver only wants to hear that they suffice.
        gpus_per_node=tasks,
        gpus_per_task=1,
        auto_set_gpu=False,
    )
    workers = slurm.cluster_spec().as_dict()["worker"]
    # It sorts the names of the machines, node10 before node2, where Slurm numbers the tasks by
    # machine: so not its own `task_id`, but where this task's machine and place on it stand.
    machine, place = os.environ["SLURMD_NODENAME"], int(os.environ["SLURM_LOCALID"])
    here = [i for i, worker in enumerate(workers) if worker.startswith(f"{machine}:")]
    return {"cluster": {"worker": workers}, "task": {"type": "worker", "index": here[place]}}


def _tpu(name):
    if not name:
        raise UserError("--strategy=tpu needs --tpu: its name, or local for this machine's")
    try:
        cluster = tf.distribute.cluster_resolver.TPUClusterResolver(tpu=name)
        tf.config.experimental_connect_to_cluster(cluster)
        tf.tpu.experimental.initialize_tpu_system(cluster)
        return tf.distribute.TPUStrategy(cluster)
    except (ImportError, OSError, ValueError, RuntimeError, tf.errors.OpError) as error:
        raise UserError(f"--tpu={name} cannot be reached: {error}") from error


def split_cpu(count):
    """Makes `count` logical devices of the CPU; must come before TensorFlow's first operation.

    Raises:
        UserError: `count` is below 1.
    """
    if count < 1:
        raise UserError(f"--virtual_devices={count}: give 1 or more")
    [cpu] = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * count
    )


def several_workers():
    """Whether processes on several machines, or several on one, share the current strategy."""
    return isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy)


def is_chief():
    """Whether this process is the one that writes and speaks for all of them."""
    if not several_workers():
        return True
    cluster = tf.distribute.get_strategy().cluster_resolver
    if cluster.task_type == "worker" and "chief" in cluster.cluster_spec().jobs:
        return False
    return cluster.task_id == 0


def worker_is_gone(error):
    """Whether an error is what a collective operation ends with when a worker has died."""
    return several_workers() and isinstance(
        error,
        (
            tf.errors.UnavailableError,
            tf.errors.AbortedError,
            tf.errors.CancelledError,
            tf.errors.DeadlineExceededError,
            tf.errors.FailedPreconditionError,
        ),
    )


@contextlib.contextmanager
def scope(strategy):
    """A strategy's scope, in which the death of another worker is an error of one line.

    Raises:
        UserError: another worker is gone.
    """
    with strategy.scope():
        try:
            yield
        except tf.errors.OpError as error:
            if not worker_is_gone(error):
                raise
            named = re.search(r"remote target \S+/task:(\d+)", str(error))
            who = f"worker {named.group(1)}" if named else "another worker"
            raise UserError(
                f"{who} is gone: start all of them again with the same command"
            ) from error


def gather_from_workers(number):
    """A number of each worker, known to all of them.

    Every worker has to call it, at the same point of the program.

    Args:
        number: int, this worker's.

    Returns:
        A list of ints, one of each replica.
    """
    strategy = tf.distribute.get_strategy()
    if not several_workers():
        return [number]
    held = strategy.experimental_distribute_values_from_function(
        lambda _: tf.constant([number], tf.int64)
    )
    return [int(n) for n in strategy.gather(held, axis=0)]


def num_replicas():
    """How many replicas share the current step, int."""
    return tf.distribute.get_strategy().num_replicas_in_sync


def replicas_in_main_memory():
    """How many replicas keep their variables in this machine's memory, int; 0 with GPUs or TPUs."""
    if tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("TPU"):
        return 0
    if num_replicas() == 1:
        return 1
    return len(tf.distribute.get_strategy().extended.worker_devices)


def own_rows(count):
    """Where this replica's `count` rows stand in the global batch, int32 `[count]`."""
    if num_replicas() == 1:
        return tf.range(count)
    replica = tf.distribute.get_replica_context().replica_id_in_sync_group
    return replica * count + tf.range(count)


def all_gather(x):
    """`x` of every replica, `[n, ...]`, as one global batch `[replicas * n, ...]`.

    Gradients pass: that of `x` is the sum of what the losses of all replicas owe to it.
    """
    if num_replicas() == 1:
        return x
    shape = [num_replicas() * x.shape[0], *x.shape[1:]]
    if x.dtype == tf.uint8:
        # Collectives do not take bytes: several travel as one integer. TPUs sum int32, while
        # MirroredStrategy would send it through one device.
        on_tpu = isinstance(tf.distribute.get_strategy(), tf.distribute.TPUStrategy)
        word = tf.int32 if on_tpu else tf.int64
        rows = tf.reshape(x, [x.shape[0], -1])
        length = rows.shape[1]
        rows = tf.pad(rows, [[0, 0], [0, -length % word.size]])
        words = all_gather(tf.bitcast(tf.reshape(rows, [x.shape[0], -1, word.size]), word))
        rows = tf.reshape(tf.bitcast(words, tf.uint8), [shape[0], -1])
        return tf.reshape(rows[:, :length], shape)
    replica = tf.distribute.get_replica_context()

    # TensorFlow's own gradient gathers the numbers of rows as well, which are all the same here.
    @tf.custom_gradient
    def gather(x):
        def gradient(upstream):
            upstream = replica.all_reduce("SUM", tf.convert_to_tensor(upstream))
            return tf.gather(upstream, own_rows(x.shape[0]))

        # A function's own argument is on no device, and a gather asks for one.
        return tf.ensure_shape(replica.all_gather(tf.identity(x), axis=0), shape), gradient

    return gather(x)

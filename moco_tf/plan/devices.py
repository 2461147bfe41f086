"""What the devices of a run are: their kind, their memory and what they compute fast."""

import glob
import os

import tensorflow as tf

from moco_tf import workers
from moco_tf.machine import main_memory, usable_cores
from moco_tf.plan.facts import Devices

# From this compute capability on, NVIDIA GPUs compute in bfloat16 as fast as in float16.
BFLOAT16_CAPABILITY = (8, 0)
# The processors with these instructions multiply bfloat16 matrices, which oneDNN makes use of.
BFLOAT16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16")
UNKNOWN = 2**31 - 1


def look() -> Devices:
    """Return the devices of the current strategy.

    Every worker returns the same: the smallest memory and the smallest number of cores of all.
    """
    strategy = tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    gpus = tf.config.list_physical_devices("GPU")
    cores = _least(usable_cores())
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return Devices("tpu", f"{replicas} TPU cores", replicas, None, True, cores)
    local = len(strategy.extended.worker_devices) if replicas > 1 else 1
    if gpus:
        return Devices(
            kind="gpu",
            names=_names(gpus[:local]),
            replicas=replicas,
            memory=_known(_least(_megabytes(_gpu_memory(local)))),
            has_bfloat16=bool(_least(int(_has_bfloat16(gpus[:local])))),
            cores=cores,
            unused_gpus=max(len(gpus) - local, 0),
        )
    return Devices(
        kind="cpu",
        names="CPU",
        replicas=replicas,
        memory=_known(_least(_megabytes(main_memory() // local))),
        has_bfloat16=bool(_least(int(cpu_has_bfloat16()))),
        cores=cores,
        has_hidden_gpu=_has_hidden_gpu(),
    )


def cpu_has_bfloat16(cpuinfo: str = "/proc/cpuinfo") -> bool:
    """Return whether the processor multiplies bfloat16 matrices.

    Args:
        cpuinfo: Path of Linux' description of the processor. Without one, the answer is no.
    """
    try:
        with open(cpuinfo, encoding="utf-8") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return not set(flags.split()).isdisjoint(BFLOAT16_INSTRUCTIONS)


def _has_hidden_gpu() -> bool:
    """Return whether there is an NVIDIA GPU that is not switched off for this process."""
    is_switched_off = os.environ.get("CUDA_VISIBLE_DEVICES", "0") in ("", "-1")
    return not is_switched_off and bool(glob.glob("/dev/nvidia[0-9]*"))


def _gpu_memory(count: int) -> int | None:
    """Return the smallest memory of the first GPUs, as TensorFlow may allocate it, in bytes."""
    # The only list of devices with their memory; the public interface does not have it.
    from tensorflow.python.client import device_lib

    try:
        devices = device_lib.list_local_devices()
    except (RuntimeError, tf.errors.OpError):  # A plan can do without.
        return None
    limits = [
        device.memory_limit
        for device in devices
        if device.device_type == "GPU" and device.memory_limit > 0
    ]
    return min(limits[:count], default=None)


def _has_bfloat16(gpus: list[tf.config.PhysicalDevice]) -> bool:
    capabilities = [_details(gpu).get("compute_capability") for gpu in gpus]
    return all(capability and capability >= BFLOAT16_CAPABILITY for capability in capabilities)


def _names(gpus: list[tf.config.PhysicalDevice]) -> str:
    """Return the distinct names of GPUs, such as `"NVIDIA A100-SXM4-40GB"`."""
    return ", ".join(sorted({_details(gpu).get("device_name", "GPU") for gpu in gpus}))


def _details(gpu: tf.config.PhysicalDevice) -> dict:
    return tf.config.experimental.get_device_details(gpu)


def _least(number: int) -> int:
    """Return the smallest of the numbers of all workers."""
    return min(workers.gather_from_workers(number))


def _megabytes(memory: int | None) -> int:
    # Rounded, so that a few bytes more or less do not change what is printed.
    return UNKNOWN if memory is None else memory // 2**20


def _known(megabytes: int) -> int | None:
    return None if megabytes == UNKNOWN else megabytes * 2**20

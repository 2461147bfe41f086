"""GPUs that TensorFlow cannot compile for."""

import re

import tensorflow as tf

from moco_tf.errors import UserError


def require_supported() -> None:
    """Raise a `UserError` if XLA cannot compile for a visible GPU, which would end the process.

    XLA emits code of the version that TensorFlow was built with. Blackwell GPUs need CUDA 12.8,
    and TensorFlow 2.21 was built with CUDA 12.5 (tensorflow issue 111958).
    """
    built_with = str(tf.sysconfig.get_build_info().get("cuda_version", ""))
    for gpu in tf.config.get_visible_devices("GPU"):
        details = tf.config.experimental.get_device_details(gpu)
        capability = details.get("compute_capability", (0, 0))
        if not can_compile_for(capability, built_with):
            raise UserError(
                f"{details.get('device_name', gpu.name)} has compute capability "
                f"{'.'.join(map(str, capability))}, for which TensorFlow {tf.__version__} cannot "
                f"compile, because it was built with CUDA {built_with}: install a TensorFlow that "
                "was built with CUDA 12.8 or later, or set CUDA_VISIBLE_DEVICES to other GPUs, or "
                "to -1 for the CPU"
            )


def can_compile_for(capability: tuple[int, int], cuda_version: str) -> bool:
    """Return whether XLA of a TensorFlow that was built with a version of CUDA supports a GPU.

    Args:
        capability: Compute capability of the GPU.
        cuda_version: Version of CUDA, or the empty string if TensorFlow was built without it.

    Example:
        >>> can_compile_for((9, 0), "12.5.1"), can_compile_for((12, 0), "12.5.1")
        (True, False)
    """
    version = [int(number) for number in re.findall(r"\d+", cuda_version)]
    return capability < (10, 0) or not version or version >= [12, 8]

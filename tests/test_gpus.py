"""GPUs that TensorFlow cannot compile for are refused."""

import pytest
import tensorflow as tf

from moco_tf import gpus, workers
from moco_tf.errors import UserError


@pytest.mark.parametrize(
    ("capability", "cuda_version", "supported"),
    [
        ((8, 9), "12.5.1", True),
        ((9, 0), "12.5.1", True),
        ((10, 0), "12.5.1", False),
        ((12, 0), "12.5.1", False),
        ((12, 0), "12.8", True),
        ((12, 0), "13.0.2", True),
        ((12, 0), "", True),  # Built without CUDA, it uses no GPU.
    ],
)
def test_gpus_that_xla_can_compile_for(capability, cuda_version, supported):
    assert gpus.can_compile_for(capability, cuda_version) is supported


def test_gpu_that_xla_cannot_compile_for_is_refused_in_one_line(monkeypatch):
    # There is no such GPU here, so this is what TensorFlow would say of it.
    gpu = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    details = {"device_name": "NVIDIA GeForce RTX 5090", "compute_capability": (12, 0)}
    monkeypatch.setattr(tf.config, "get_visible_devices", lambda kind: [gpu])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    monkeypatch.setattr(tf.sysconfig, "get_build_info", lambda: {"cuda_version": "12.5.1"})
    expected = "NVIDIA GeForce RTX 5090 has compute capability 12.0, for which TensorFlow "
    strategy = tf.distribute.get_strategy()
    with pytest.raises(UserError, match=expected), workers.scope(strategy):
        pass

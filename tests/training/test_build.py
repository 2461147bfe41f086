"""The model that a config describes is refused if it does not fit into memory."""

import pytest
import tensorflow as tf

from moco_tf.config import default_config
from moco_tf.errors import UserError
from moco_tf.training import build


def memory_bank_config():
    config = default_config()
    config.update(mechanism="memory_bank", encoder="resnet8", stem="small", queue_size=16)
    return config


def never(*args, **kwargs):
    raise AssertionError("the memory bank was built")


def test_memory_bank_larger_than_main_memory_is_an_error(monkeypatch):
    monkeypatch.setattr(build, "MemoryBank", never)
    with pytest.raises(UserError) as error:
        build.build_model(memory_bank_config(), steps_per_epoch=10, num_images=10**12)
    for part in ("512,000,000.0 MB", "config.dim", "config.mechanism='moco'"):
        assert part in str(error.value)


def test_memory_bank_larger_than_device_memory_is_an_error(monkeypatch):
    def out_of_memory(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(build, "MemoryBank", out_of_memory)
    with pytest.raises(UserError, match="0.5 MB on each device"):
        build.build_model(memory_bank_config(), steps_per_epoch=10, num_images=1000)


def test_memory_bank_larger_than_the_limit_of_the_container_is_an_error(monkeypatch):
    monkeypatch.setattr(build, "MemoryBank", never)
    monkeypatch.setattr(build, "main_memory", lambda: 511_999)
    with pytest.raises(UserError, match="takes 1000 x 128 x 4 bytes = 0.5 MB .* may use 0.5 MB"):
        build.build_model(memory_bank_config(), steps_per_epoch=10, num_images=1000)

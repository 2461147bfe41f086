"""The model that a config describes is refused if it does not fit into memory."""

import numpy as np
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


def changed_config(mechanism="moco", seed=7):
    """A config in which every setting of the mechanism and the optimizer has another value."""
    config = default_config()
    config.data.source = "photos"
    config.update(mechanism=mechanism, encoder="resnet8", stem="small", image_size=16, dim=12)
    config.update(batch_size=8, bn_groups=4, queue_size=16, seed=seed)
    config.update(momentum=0.93, bank_momentum=0.4, temperature=0.31, shuffle_bn=False)
    config.update(sgd_momentum=0.8, weight_decay=3e-3, symmetric_loss=mechanism != "memory_bank")
    return config


def groups_of(encoder):
    return {layer.groups for layer in encoder.backbone.layers if hasattr(layer, "groups")} - {1}


@pytest.mark.parametrize("mechanism", ["moco", "end_to_end", "memory_bank"])
def test_model_has_the_settings_of_the_config(mechanism):
    model = build.build_model(changed_config(mechanism), steps_per_epoch=10, num_images=100)
    expected = {"temperature": 0.31, "seed": 7}
    if mechanism == "memory_bank":
        assert (model.num_negatives, model.bank.momentum) == (16, 0.4)
        assert model.bank.representations.shape == (100, 12)
    else:
        expected |= {"shuffle_bn": False, "symmetric_loss": True}
        assert model.key_encoder.output_shape == (None, 12)
    if mechanism == "moco":
        expected["momentum"] = 0.93
        assert model.queue.keys.shape == (16, 12)
    assert {name: getattr(model, name) for name in expected} == expected
    assert model.query_encoder.output_shape == (None, 12)
    assert (model.optimizer.momentum, model.optimizer.coupled_weight_decay) == (0.8, 3e-3)
    assert groups_of(model.query_encoder) == {4}


@pytest.mark.distributed
def test_each_replica_has_its_share_of_the_groups(two_replicas):
    with two_replicas.scope():
        model = build.build_model(changed_config(), steps_per_epoch=10)
    assert groups_of(model.query_encoder) == groups_of(model.key_encoder) == {2}


def rates(config, steps):
    schedule = build.build_schedule(config, steps_per_epoch=10)
    return [float(schedule(step)) for step in steps]


def test_learning_rate_falls_at_the_milestones_of_the_config():
    config = changed_config()
    config.update(schedule="step", milestones=(2, 5), learning_rate=0.4)
    config.scale_learning_rate = False
    expected = [0.4, 0.4, 0.04, 0.04, 0.004, 0.004]
    np.testing.assert_allclose(rates(config, (0, 19, 20, 49, 50, 1000)), expected, rtol=1e-6)


def test_learning_rate_falls_after_the_steps_of_the_config():
    config = changed_config()
    config.update(schedule="exponential", decay_every=3, learning_rate=0.4)
    config.scale_learning_rate = True
    config.batch_size = 64
    expected = [0.1 * 0.9 ** (step // 3) for step in range(12)]
    np.testing.assert_allclose(rates(config, range(12)), expected, rtol=1e-6)


def test_seed_of_the_config_changes_weights_queue_and_views():
    def drawn(seed):
        config = changed_config(seed=seed)
        model = build.build_model(config, steps_per_epoch=10)
        _, batches = build.build_data(config)
        views = next(batches.between(0, 1).as_numpy_iterator())
        kernels = [weight for weight in model.query_encoder.get_weights() if weight.ndim == 4]
        return [*kernels, model.queue.keys.numpy(), *views]

    first, again, other = drawn(0), drawn(0), drawn(1)
    assert len(first) > 5
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).mean() > 0.5

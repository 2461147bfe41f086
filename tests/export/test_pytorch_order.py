"""Trainings that change between this project and the reference, in float64.

The reference updates the key encoder before it encodes the keys of a step, and this project at the
end of a step. A checkpoint has to account for that, or the two trainings part.
"""

import functools

import numpy as np
import pytest
import tensorflow as tf

from moco_tf import MoCo, encoders
from moco_tf.backbones.reference_checkpoint import from_checkpoint, to_checkpoint
from moco_tf.optimizers import SGD
from tests.export.checkpoints import BATCH, DIM, KEYS, RATE, reference, set_values, train_reference
from tests.precision import in_float64
from tests.pytorch import torch

pytestmark = pytest.mark.torch

BEFORE, AFTER = 3, 15  # Steps before the first change and after each.


@pytest.fixture(autouse=True)
def float64():
    with in_float64():
        yield


def our_model(m):
    build = functools.partial(encoders.build, "resnet8", "mlp", DIM, stem="small")
    model = MoCo(build, KEYS, m, temperature=0.07, shuffle_bn=False)
    model.compile(SGD(RATE, 0.9, 1e-4))
    return model


def their_model():
    torch.manual_seed(0)
    model, _ = reference("resnet8", "mlp")
    model = model.double()
    return model, torch.optim.SGD(model.parameters(), RATE, momentum=0.9, weight_decay=1e-4)


def images(first, count):
    """Return the views of some steps, `[count, 2, N, 3, H, W]`."""
    generators = [np.random.default_rng(step) for step in range(first, first + count)]
    return np.stack([generator.normal(size=(2, BATCH, 3, 16, 16)) for generator in generators])


def train_theirs(model, optimizer, m, first, count):
    for images_q, images_k in torch.from_numpy(images(first, count)):
        train_reference(model, optimizer, images_q, images_k, m)


def train_ours(model, first, count):
    views = images(first, count).transpose(0, 1, 2, 4, 5, 3)
    data = tf.data.Dataset.from_tensor_slices((views[:, 0], views[:, 1]))
    model.fit(data, verbose=0, shuffle=False)


def their_checkpoint(model, optimizer):
    return {"state_dict": model.state_dict(), "optimizer": optimizer.state_dict()}


def assert_same_model(actual, expected, tolerance=1e-10):
    """Compare all weights, moving statistics, queues and momentum buffers."""
    variables = [m.variables + m.optimizer.variables for m in (actual, expected)]
    for ours, theirs in zip(*variables, strict=True):
        np.testing.assert_allclose(
            ours.numpy(), theirs.numpy(), rtol=tolerance, atol=tolerance, err_msg=ours.path
        )


def load(model, optimizer, checkpoint):
    model.load_state_dict(checkpoint["state_dict"])
    optimizer.load_state_dict(checkpoint["optimizer"])


@pytest.mark.slow  # 36 steps in float64.
@pytest.mark.parametrize("m", [0.99, 0.0])
def test_training_goes_on_in_the_other_program(m):
    model, optimizer = their_model()
    train_theirs(model, optimizer, m, 0, BEFORE)
    ours, expected = our_model(m), our_model(m)
    assert from_checkpoint(ours, their_checkpoint(model, optimizer))
    start = ours.query_encoder.get_weights()[0]

    # Imported, the training goes on as it does there.
    train_ours(ours, BEFORE, AFTER)
    train_theirs(model, optimizer, m, BEFORE, AFTER)
    from_checkpoint(expected, their_checkpoint(model, optimizer))
    assert_same_model(ours, expected)
    assert np.abs(ours.query_encoder.get_weights()[0] - start).max() > 1e-3
    assert ours.step.numpy() == BEFORE + AFTER

    # Exported, it goes on there as it does here.
    model, optimizer = their_model()
    load(model, optimizer, to_checkpoint(ours, "resnet8", steps_per_epoch=1))
    train_ours(ours, BEFORE + AFTER, AFTER)
    train_theirs(model, optimizer, m, BEFORE + AFTER, AFTER)
    from_checkpoint(expected, their_checkpoint(model, optimizer))
    assert_same_model(ours, expected)


@pytest.mark.parametrize("m", [1.0, 0.99, 1e-3, 1e-10, 0.0])
def test_export_and_import_return_the_same(m):
    ours, returned = our_model(m), our_model(m)
    theta_q = set_values(ours).query_encoder.trainable_variables
    for number, variable in enumerate(ours.key_encoder.trainable_variables):
        # As close to the query encoder as the last momentum update has brought it.
        before = np.random.default_rng(number).normal(size=variable.shape)
        variable.assign(m * before + (1 - m) * theta_q[number].numpy())
    from_checkpoint(returned, to_checkpoint(ours, "resnet8", steps_per_epoch=1))
    # With a tiny momentum, the key encoder is the query encoder but for a rounding error.
    assert_same_model(returned, ours, tolerance=1e-9 if m == 1e-10 else 1e-14)


def test_moving_statistics_are_not_part_of_the_momentum_update():
    model, optimizer = their_model()
    train_theirs(model, optimizer, 0.9, 0, 1)
    ours = our_model(0.9)
    checkpoint = their_checkpoint(model, optimizer)
    from_checkpoint(ours, checkpoint)
    exported = to_checkpoint(ours, "resnet8", 1)["state_dict"]
    for key in ("bn1.running_mean", "layer3.0.bn2.running_var"):
        expected = checkpoint["state_dict"][f"module.encoder_k.{key}"]
        assert (exported[f"module.encoder_k.{key}"] == expected).all()
        assert (expected != checkpoint["state_dict"][f"module.encoder_q.{key}"]).any()

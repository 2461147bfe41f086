"""Every file in configs/: its values, the content of its docstring, and a short training."""

import functools
import importlib
import math
import pathlib
import re

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.config import default_config, flatten
from moco_tf.config_checks import check, late_decay
from moco_tf.data import recipes, sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.encoders.resnet import ARCHITECTURES
from moco_tf.plan.rules import PLANNED
from moco_tf.training.announcement import large_learning_rate
from moco_tf.training.build import build_model, build_schedule

FILES = sorted(path for path in pathlib.Path("configs").glob("*.py") if path.stem != "__init__")
NAMES = [path.stem for path in FILES]
COMPLETE = [name for name in NAMES if name != "auto"]  # A plan completes configs/auto.py.

V2 = {"head": "mlp", "augmentation": "v2", "temperature": 0.2, "schedule": "cosine"}
# How each config differs from MoCo v1 on ImageNet, according to the source in its docstring.
CHANGES = {
    "auto": {"schedule": "cosine", **dict.fromkeys(PLANNED)},
    "imagenet_v1": {},
    "imagenet_v1_800": {"epochs": 800, "milestones": [480, 640]},
    "imagenet_v1_resnet50w2": {"encoder": "resnet50w2"},
    "imagenet_v1_resnet50w4": {"encoder": "resnet50w4"},
    "imagenet_v1_resnext50": {"encoder": "resnext50_32x8d"},
    "imagenet_v2": V2,
    "imagenet_v2_800": {**V2, "epochs": 800},
    "billion_images": {
        "batch_size": 1024,
        "bn_groups": 64,
        "steps": 1_250_000,
        "schedule": "exponential",
        "checkpoint_every": 5000,
        "knn_every": 0,
    },
    "cifar10": {
        "encoder": "resnet18",
        "stem": "small",
        "image_size": 32,
        "queue_size": 4096,
        "momentum": 0.99,
        "temperature": 0.1,
        "augmentation": "cifar10",
        "batch_size": 512,
        "learning_rate": 0.06,
        "scale_learning_rate": False,
        "schedule": "cosine",
        "weight_decay": 5e-4,
    },
    "mini_imagenet": {**V2, "batch_size": 128, "bn_groups": 4, "queue_size": 16384},
    "folder": {**V2, "queue_size": 8192, "momentum": 0.99},
    "fashion_mnist": {
        "data.source": "idx:/usr/share/datasets/fashion-mnist",
        "encoder": "resnet8",
        "stem": "small",
        "image_size": 14,
        "evaluation_size": 28,
        "augmentation": "v2",
        "rgb_operations": False,
        "queue_size": 8192,
        "momentum": 0.99,
        "temperature": 0.1,
        "batch_size": 128,
        "learning_rate": 0.24,
        "schedule": "cosine",
        "epochs": 60,
        "knn_every": 6,
        "checkpoint_every": 500,
    },
    "photos": {
        "data.source": "photos",
        "encoder": "resnet8",
        "stem": "small",
        "image_size": 16,
        "evaluation_size": 32,
        "queue_size": 1024,
        "momentum": 0.99,
        "temperature": 0.1,
        "batch_size": 128,
        "learning_rate": 0.24,
        "schedule": "cosine",
        "epochs": 64,
        "knn_every": 8,
        "checkpoint_every": 400,
    },
}
# The learning rates of the first and the last step, by the formula of the source.
RATES = {
    "imagenet_v1": (0.03, 0.03 * 0.01),
    "imagenet_v1_800": (0.03, 0.03 * 0.01),
    "imagenet_v2": (0.03, 0.015 * (1 + math.cos(math.pi * 199 / 200))),
    "imagenet_v2_800": (0.03, 0.015 * (1 + math.cos(math.pi * 799 / 800))),
    "billion_images": (0.12, 0.12 * 0.9**19),
    "cifar10": (0.06, 0.03 * (1 + math.cos(math.pi * 199 / 200))),
}


def get_config(name):
    return importlib.import_module(f"moco_tf.configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_config_changes_what_its_source_changes(name):
    defaults, config = flatten(default_config()), flatten(get_config(name))
    assert {key: config[key] for key in config if config[key] != defaults[key]} == CHANGES[name]


@pytest.mark.parametrize("name", COMPLETE)
def test_learning_rate_decays_within_the_run(name):
    assert late_decay(flatten(get_config(name)), steps_per_epoch=1000) is None


@pytest.mark.parametrize("name", COMPLETE)
def test_learning_rate_suits_the_encoder(name):
    assert large_learning_rate(get_config(name)) is None


@pytest.mark.parametrize("name", RATES)
def test_learning_rate_begins_and_ends_as_in_the_source(name):
    config = get_config(name)
    steps_per_epoch = 1000
    schedule = build_schedule(config, steps_per_epoch)
    last_step = (config.steps or config.epochs * steps_per_epoch) - 1
    for step, expected in zip((0, last_step), RATES[name], strict=True):
        # Near a cosine of -1, the error of float32 is as large as the rate itself.
        assert float(schedule(step)) == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", COMPLETE)
def test_config_with_data_passes_the_checks(name):
    config = get_config(name)
    config.data.source = config.data.source or "photos"
    check(config)
    assert flatten(config).keys() == flatten(default_config()).keys()


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_docstring_has_a_command_and_an_expectation(path):
    docstring = importlib.import_module(f"moco_tf.configs.{path.stem}").__doc__
    assert f"python train.py --config={path} " in docstring
    assert "To expect" in docstring


def graph_key(name):
    """Return everything in a config that changes the training step, except numbers."""
    config = get_config(name)
    encoder = re.sub(r"w\d+$", "w", config.encoder)
    return (config.mechanism, encoder, config.stem, config.head, config.augmentation)


# The first config, by name, for each kind of training step.
REPRESENTATIVES = {graph_key(name): name for name in reversed(COMPLETE)}.values()


@functools.cache
def two_batches(recipe):
    """Return two batches of views, uint8 `[2, 2, 4, 32, 32, 3]`, and the steps per epoch."""
    batches = TwoViews(sources.load("photos"), 32, recipe, batch_size=4, seed=0)
    return np.array(list(batches.between(0, 2).as_numpy_iterator())), batches.steps_per_epoch


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        name if name == "folder" else pytest.param(name, marks=pytest.mark.nightly)
        for name in REPRESENTATIVES
    ],
)
def test_config_trains_for_two_steps(name, monkeypatch):
    """It keeps its stem, block, width, head and augmentation, but has small images and batches."""
    for key, architecture in ARCHITECTURES.items():
        # One block per stage, since the other blocks are the same.
        depths = (1,) * len(architecture.depths)
        monkeypatch.setitem(ARCHITECTURES, key, architecture._replace(depths=depths))
    config = get_config(name)
    config.data.source = "photos"
    config.queue_size, config.batch_size, config.bn_groups = 10, 4, 2
    views, steps_per_epoch = two_batches(recipes.from_config(config))
    model = build_model(config, steps_per_epoch)
    kernel = model.query_encoder.trainable_variables[0]
    before = kernel.numpy()
    data = tf.data.Dataset.from_tensor_slices((views[:, 0], views[:, 1]))
    losses = model.fit(data, verbose=0, shuffle=False).history["loss"]
    assert np.isfinite(losses).all()
    assert int(model.step.numpy()) == 2
    assert int(model.queue.pointer.numpy()) == 8
    assert np.abs(kernel.numpy() - before).max() > 0

"""Every file in configs/: the numbers of its source, its promises, and two steps of training."""

import functools
import importlib
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from moco_tf.config import check, default_config, flatten
from moco_tf.data import sources
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.recipes import RECIPES
from moco_tf.encoders.resnet import ARCHITECTURES
from moco_tf.training.build import build_model

FILES = sorted(path for path in pathlib.Path("configs").glob("*.py"))
NAMES = [path.stem for path in FILES]

V2 = {"head": "mlp", "augmentation": "v2", "temperature": 0.2, "schedule": "cosine"}
# What each changes of MoCo v1 on ImageNet, by its source, which its docstring names.
CHANGES = {
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
    "photos": {
        "data.source": "photos",
        "encoder": "resnet8",
        "stem": "small",
        "image_size": 32,
        "queue_size": 1024,
        "momentum": 0.99,
        "temperature": 0.1,
        "batch_size": 128,
        "learning_rate": 0.24,
        "schedule": "cosine",
        "epochs": 32,
        "knn_every": 4,
        "checkpoint_every": 200,
    },
}
# The rate of the first step, and of the last, by the closed form of its source.
RATES = {
    "imagenet_v1": (0.03, 0.03 * 0.01),
    "imagenet_v1_800": (0.03, 0.03 * 0.01),
    "imagenet_v2": (0.03, 0.015 * (1 + math.cos(math.pi * 199 / 200))),
    "imagenet_v2_800": (0.03, 0.015 * (1 + math.cos(math.pi * 799 / 800))),
    "billion_images": (0.12, 0.12 * 0.9**19),
    "cifar10": (0.06, 0.03 * (1 + math.cos(math.pi * 199 / 200))),
}


def get(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_it_changes_what_its_source_changes(name):
    defaults, config = flatten(default_config()), flatten(get(name))
    assert {key: config[key] for key in config if config[key] != defaults[key]} == CHANGES[name]


@pytest.mark.parametrize("name", RATES)
def test_the_learning_rate_begins_and_ends_as_its_source_says(name):
    config = get(name)
    config.encoder, config.queue_size = "resnet8", 16
    steps_per_epoch = 1000
    optimizer = build_model(config, steps_per_epoch).optimizer
    for step, expected in zip((0, config.steps or config.epochs * 1000), RATES[name], strict=True):
        optimizer.iterations.assign(max(step - 1, 0))
        # Where the cosine is near -1, float32 leaves an error of its own size.
        assert float(optimizer.learning_rate) == pytest.approx(expected, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_it_passes_the_checks_once_it_has_data(name):
    config = get(name)
    config.data.source = config.data.source or "photos"
    check(config)
    assert flatten(config).keys() == flatten(default_config()).keys()


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_it_says_how_to_run_it_and_what_to_expect(path):
    text = importlib.import_module(f"configs.{path.stem}").__doc__
    assert f"python train.py --config={path} " in text
    assert "o expect" in text  # To expect, or no number to expect


@functools.cache
def two_batches(image_size, crop_scale):
    """Views of four photographs each, uint8 `[2, 2, 4, size, size, 3]`; and the steps of an epoch.

    Of the sizes and crops that configs share, made once.
    """
    batches = TwoViews(sources.load("photos"), image_size, crop_scale, batch_size=4, seed=0)
    return np.array(list(batches.between(0, 2).as_numpy_iterator())), batches.steps_per_epoch


@pytest.fixture
def shallow(monkeypatch):
    """Leaves each network one block a stage; the further ones are all alike."""
    for name, architecture in ARCHITECTURES.items():
        depths = (1,) * len(architecture.depths)
        monkeypatch.setitem(ARCHITECTURES, name, architecture._replace(depths=depths))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "imagenet_v2"])
def test_it_trains_for_two_steps(shallow, name):
    """With its stem, its kind of block and width, head, augmentation and schedule; on four small
    images at a time."""
    # A graph would hold several copies of the widest network's 100 million parameters.
    train_two_steps(name, run_eagerly=name.endswith("w4"))


def test_the_papers_network_trains_for_two_steps_with_all_of_its_blocks():
    train_two_steps("imagenet_v2")


def train_two_steps(name, run_eagerly=False):
    config = get(name)
    config.data.source = "photos"
    config.queue_size, config.batch_size, config.bn_groups = 10, 4, 2
    image_size = min(config.image_size, 64)
    crop_scale = RECIPES[config.augmentation].crop_scale
    views, steps_per_epoch = two_batches(image_size, crop_scale)
    model = build_model(config, steps_per_epoch)
    model.run_eagerly = run_eagerly
    before = model.query_encoder.trainable_variables[0].numpy()
    data = tf.data.Dataset.from_tensor_slices((views[:, 0], views[:, 1]))
    losses = model.fit(data, verbose=0, shuffle=False).history["loss"]
    assert np.isfinite(losses).all()
    assert int(model.step.numpy()) == 2
    assert int(model.queue.pointer.numpy()) == 8
    assert np.abs(model.query_encoder.trainable_variables[0].numpy() - before).max() > 0

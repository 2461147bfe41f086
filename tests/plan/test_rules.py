"""The rules of a plan: from facts to settings."""

import itertools
from dataclasses import replace

import pytest

from moco_tf.config import flatten
from moco_tf.config_checks import check
from moco_tf.configs.auto import get_config
from moco_tf.configs.folder import get_config as get_folder_config
from moco_tf.configs.imagenet_v2 import get_config as get_imagenet_v2_config
from moco_tf.configs.photos import get_config as get_photos_config
from moco_tf.plan import choices
from moco_tf.plan.rules import PLANNED, RULES, apply
from tests.plan.facts import CPU, GPU, gpus, photos


def planned(images, devices, **settings):
    """Return the config of a plan, with all settings that are not given."""
    config = get_config()
    config.data.source = "photos"
    config.update_from_flattened_dict(settings)
    chosen = apply(images, devices, flatten(config))
    config.update_from_flattened_dict({key: value for key, (value, _) in chosen.items()})
    return config


SMALL = {"stem": "small", "head": "linear", "temperature": 0.1, "momentum": 0.99}
LARGE = {"stem": "imagenet", "head": "mlp", "temperature": 0.2, "augmentation": "v2"}
VIEWS = {"image_size": 16, "evaluation_size": 32}
LAPTOP = {**SMALL, **VIEWS, "encoder": "resnet8", "learning_rate": 0.24}
CASES = {
    "500 gray images on a laptop": (
        photos(500, 32, is_gray=True),
        CPU,
        {
            **LAPTOP,
            **{"batch_size": 32, "bn_groups": 2, "queue_size": 64, "epochs": 800},
            **{"augmentation": "v1", "rgb_operations": False},
        },
    ),
    # The recommendation of docs/your_images.md.
    "2,000 photos on a laptop": (
        photos(2_000),
        CPU,
        {
            **LAPTOP,
            **{"batch_size": 128, "bn_groups": 8, "queue_size": 256, "epochs": 320},
            **{"augmentation": "cifar10", "rgb_operations": True},
        },
    ),
    "2,000 photos on a processor with bfloat16": (
        photos(2_000),
        replace(CPU, has_bfloat16=True),
        {"precision": "mixed_bfloat16", "batch_size": 128, "encoder": "resnet8"},
    ),
    "2,000 photos on a GPU": (
        photos(2_000),
        GPU,
        {
            **LARGE,
            **{"image_size": 224, "encoder": "resnet18", "batch_size": 128, "bn_groups": 4},
            **{"queue_size": 256, "epochs": 800, "momentum": 0.99},
        },
    ),
    # The recommendation of configs/folder.py, in the memory of the GPU.
    "50,000 photos on a GPU": (
        photos(50_000),
        GPU,
        {
            **LARGE,
            **{"encoder": "resnet50", "batch_size": 256, "bn_groups": 8, "queue_size": 8192},
            **{"epochs": 200, "momentum": 0.99, "precision": "mixed_bfloat16"},
        },
    ),
    "50,000 photos on a GPU without bfloat16": (
        photos(50_000),
        gpus(1, 24),
        {"batch_size": 128, "bn_groups": 4, "precision": "float32"},
    ),
    "50,000 photos on a GPU with much memory": (
        photos(50_000),
        gpus(1, 80, has_bfloat16=True),
        {"batch_size": 256, "bn_groups": 8, "precision": "float32"},
    ),
    "50,000 small color images on a GPU, as CIFAR-10": (
        photos(50_000, 32),
        GPU,
        {
            **SMALL,
            **{"image_size": 32, "encoder": "resnet18", "augmentation": "cifar10"},
            **{"learning_rate": 0.03, "batch_size": 256, "queue_size": 8192},
        },
    ),
    "images of 100 pixels": (photos(side=100), GPU, {"image_size": 96, **LARGE}),
    "icons": (photos(side=16), GPU, {"image_size": 32, **SMALL}),
    "the frames of a video": (
        photos(32_000, consecutive=0.9, stride=16),
        GPU,
        {"queue_size": 256, "encoder": "resnet18", "epochs": 200},
    ),
    "three GPUs": (photos(100_000), gpus(3, 16), {"batch_size": 240, "bn_groups": 6}),
    "a billion images on 64 GPUs, as in the paper": (
        photos(940_000_000),
        gpus(64, 16),
        {"batch_size": 1024, "bn_groups": 64, "queue_size": 65536, "momentum": 0.999, "epochs": 1},
    ),
    "five channels": (
        photos(channels=5),
        GPU,
        {"rgb_operations": False, "augmentation": "v2"},
    ),
    "unknown memory": (photos(), replace(GPU, memory=None), {"batch_size": 256}),
    "hardly any memory": (photos(), gpus(1, 0), {"batch_size": 2}),
}


@pytest.mark.parametrize(("images", "devices", "expected"), CASES.values(), ids=CASES)
def test_facts_give_settings(images, devices, expected):
    config = flatten(planned(images, devices))
    assert {key: config[key] for key in expected} == expected


def test_reason_says_that_one_epoch_is_longer_than_the_papers_run():
    epochs, reason = choices.epochs(
        photos(1_000_000_000), gpus(8, 16), {"batch_size": 256, "init": "", "encoder": "resnet50"}
    )
    assert epochs == 1
    assert reason.startswith("one epoch has 3,906,250 steps already; set config.steps=1250000")


def test_imagenet_on_eight_gpus_gives_the_papers_settings():
    expected = get_imagenet_v2_config()
    expected.data.source = "photos"
    assert flatten(planned(photos(1_281_167), gpus(8, 16))) == flatten(expected)


def test_many_photos_on_a_large_gpu_give_the_settings_of_the_folder_recipe():
    expected = get_folder_config()
    expected.data.source = "photos"
    assert flatten(planned(photos(50_000), gpus(1, 80, True))) == flatten(expected)


def test_the_demos_images_on_a_cpu_give_the_settings_of_the_demo():
    config = flatten(planned(photos(8_116, 32, is_gray=True), CPU))
    demo = flatten(get_photos_config())
    differing = {key for key in config if config[key] != demo[key]}
    # The last one makes no difference: gray images have no hue.
    assert differing == {"knn_every", "checkpoint_every", "rgb_operations"}


@pytest.mark.parametrize(("side", "expected"), [(500, 32), (28, 28), (12, 16)])
def test_views_of_evaluations_are_not_larger_than_the_images(side, expected):
    config = planned(photos(8_116, side), CPU)
    assert (config.image_size, config.evaluation_size) == (16, expected)
    check(config)


GIVEN = {
    "image_size": 96,
    "encoder": "resnet34",
    "batch_size": 48,
    "bn_groups": 6,
    "queue_size": 100,
    "epochs": 7,
    "momentum": 0.5,
    "temperature": 0.3,
    "precision": "mixed_float16",
    "augmentation": "any_orientation",
    "rgb_operations": False,
}


@pytest.mark.parametrize("key", GIVEN)
def test_a_given_value_is_kept(key):
    config = planned(photos(5_000), GPU, **{key: GIVEN[key]})
    assert config[key] == GIVEN[key]
    check(config)


def test_other_settings_follow_from_given_ones():
    images, devices = photos(5_000), GPU
    assert planned(images, devices, bn_groups=6).batch_size % 6 == 0
    assert planned(images, devices, image_size=32).stem == "small"
    assert planned(images, CPU, image_size=224).encoder == "resnet18"
    assert planned(images, devices, head="linear").temperature == 0.1
    assert planned(images, devices, mechanism="end_to_end").queue_size == 0
    rate = planned(images, devices, batch_size=64, scale_learning_rate=False).learning_rate
    assert rate == pytest.approx(0.03 / 4)
    weights = planned(images, devices, init="checkpoint:moco.pth")
    assert (weights.encoder, weights.stem, weights.learning_rate) == ("resnet50", "imagenet", 0.01)
    foreign = planned(images, CPU, encoder="keras:MobileNetV2")
    assert (foreign.stem, foreign.image_size, foreign.learning_rate) == ("imagenet", 224, 0.03)
    # A change of hue has an effect on gray images that RGB operations are left out of.
    gray = photos(5_000, is_gray=True)
    assert planned(gray, devices, **{"augment.hue": 0.2}).rgb_operations


def test_every_plan_passes_the_checks():
    numbers = (2, 3, 30, 99, 500, 2_000, 8_116, 20_000, 100_000, 1_281_167, 10**8)
    devices = [CPU, GPU, *(gpus(count, 8) for count in (1, 2, 3, 5, 8, 16))]
    mechanisms = ("moco", "memory_bank", "end_to_end")
    for number, device, mechanism in itertools.product(numbers, devices, mechanisms):
        for side, is_gray in ((20, True), (64, False), (500, False)):
            images = photos(number, side, is_gray=is_gray)
            config = planned(images, device, mechanism=mechanism)
            check(config, device.replicas)
            assert config.batch_size <= max(number, device.replicas)
            if mechanism == "moco":
                assert config.queue_size <= max(number / 4, config.batch_size)


def test_every_choice_has_a_reason_in_one_line():
    chosen = apply(photos(), GPU, flatten(get_config()))
    assert tuple(chosen) == PLANNED
    for _, reason in chosen.values():
        assert reason
        assert "\n" not in reason


def test_rules_name_their_sources():
    for rule in RULES:
        assert rule.text
        assert rule.source

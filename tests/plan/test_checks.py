"""Every warning of a plan: facts that have the problem, and facts that just do not have it."""

import dataclasses

import pytest

from moco_tf.config import default_config, flatten
from moco_tf.plan.checks import CHECKS, warnings
from tests.plan.facts import CPU, GPU, photos

SETTINGS = {
    **flatten(default_config()),
    **{"image_size": 224, "batch_size": 128, "bn_groups": 4, "queue_size": 4096},
}
# Facts, devices and settings with a problem; parts of the warning; and what is changed to mend it.
CASES = {
    "unreadable": (
        dict(images=dict(unreadable=3, unreadable_names=("a.jpg", "b.jpg"))),
        ["3 of 1,024 images", "a.jpg, b.jpg"],
        dict(images=dict(unreadable=0, unreadable_names=())),
    ),
    "unreadable, and the run is to fail": (
        dict(
            images=dict(unreadable=1, unreadable_names=("a.jpg",)),
            settings={"data.on_error": "fail"},
        ),
        ["a.jpg: a run stops at such an image"],
        dict(images=dict(unreadable=0, unreadable_names=())),
    ),
    "few": (
        dict(images=dict(number=4_000), settings=dict(queue_size=512)),
        ["4,000 images are few"],
        dict(images=dict(number=5_000)),
    ),
    "few, with weights": (
        dict(images=dict(number=4_999), settings=dict(init="run:a", queue_size=256)),
        ["4,999 images are few: compare with the weights that the run starts from"],
        dict(images=dict(number=5_000), settings=dict(init="run:a", queue_size=256)),
    ),
    "few distinct": (
        dict(images=dict(stride=16), settings=dict(queue_size=256)),
        ["3,125 distinct images are few"],
        dict(images=dict(stride=1)),
    ),
    "video": (
        dict(images=dict(consecutive=0.5, stride=8), settings=dict(queue_size=512)),
        ["50% of consecutive images", "one of 8 images", "6,250"],
        dict(images=dict(consecutive=0.15, stride=8)),
    ),
    "repetitive": (
        dict(images=dict(random=0.3)),
        ["30% of random pairs"],
        dict(images=dict(random=0.06)),
    ),
    "copies": (
        dict(images=dict(copies=0.01)),
        ["1.00% of random pairs", "about 41 of the 4096 negatives"],
        dict(images=dict(copies=1e-5)),
    ),
    "queue as large as the data": (
        dict(settings=dict(queue_size=65_536)),
        ["queue_size=65536", "all 50,000 images", "set it to 8192"],
        dict(settings=dict(queue_size=8_192)),
    ),
    "large queue": (
        dict(settings=dict(queue_size=32_768)),
        ["66% of the 50,000 images"],
        dict(settings=dict(queue_size=16_384)),
    ),
    "small groups": (
        dict(settings=dict(bn_groups=32)),
        ["bn_groups=32", "groups of 4 images", "batches of 256 images"],
        dict(settings=dict(bn_groups=16)),
    ),
    "short epoch": (
        dict(
            images=dict(number=5_000),
            devices=dict(memory=None),
            settings=dict(batch_size=1_024, queue_size=512),
        ),
        ["5,000 images has 4 steps", "leaves out 904", "batch_size below 1024"],
        dict(settings=dict(batch_size=512, queue_size=512)),
    ),
    "late decay": (
        dict(settings=dict(epochs=150)),
        ["milestones=(120, 160)", "after epoch 150", "at epoch 160"],
        dict(settings=dict(schedule="cosine")),
    ),
    "large views": (
        dict(images=dict(side=64, sides=(64,) * 9)),
        ["image_size=224", "100%", "64 pixels"],
        dict(settings=dict(image_size=64)),
    ),
    "large photos": (
        dict(images=dict(side=3_024, sides=(3_024,) * 9)),
        ["3024 pixels", "views have 224", "moco-prepare"],
        dict(images=dict(side=512, sides=(512,) * 9)),
    ),
    "turned photos": (
        dict(images=dict(turned=0.25)),
        ["25% of the image files", "data.orientation=True"],
        dict(settings={"data.orientation": True}),
    ),
    "memory": (
        dict(settings=dict(batch_size=512)),
        ["69.1 GB", "24.0 GB", "batch_size below 512"],
        dict(settings=dict(batch_size=128)),
    ),
    "unused GPUs": (
        dict(devices=dict(unused_gpus=7)),
        ["7 GPUs are not used", "mirrored"],
        dict(devices=dict(unused_gpus=0)),
    ),
    "hidden GPU": (
        dict(devices=dict(has_hidden_gpu=True)),
        ["TensorFlow does not see", "and-cuda"],
        dict(devices=dict(has_hidden_gpu=False)),
    ),
}


def found(*changes):
    images, devices, settings = photos(), GPU, dict(SETTINGS)
    for change in changes:
        images = dataclasses.replace(images, **change.get("images", {}))
        devices = dataclasses.replace(devices, **change.get("devices", {}))
        settings |= change.get("settings", {})
    return warnings(images, devices, settings)


@pytest.mark.parametrize(("problem", "parts", "remedy"), CASES.values(), ids=CASES)
def test_a_problem_has_one_warning_which_its_remedy_removes(problem, parts, remedy):
    [warning] = found(problem)
    for part in parts:
        assert part in warning
    assert "\n" not in warning
    assert found(problem, remedy) == []


def test_photos_have_no_warning():
    assert found() == []
    assert len(CASES) > len(CHECKS)


def test_photos_that_cannot_be_prepared_have_no_warning():
    large = dict(side=3_024, sides=(3_024,) * 9)
    assert found(dict(images=dict(**large, pixels="uint16"))) == []
    assert found(dict(images=dict(**large, channels=1))) == []


def test_queue_does_not_matter_for_mechanisms_without_one():
    for mechanism, size in (("end_to_end", 0), ("memory_bank", 49_999)):
        settings = dict(mechanism=mechanism, queue_size=size, batch_size=64)
        assert found(dict(settings=settings)) == []


def test_small_images_on_a_cpu_have_no_warning():
    settings = dict(image_size=32, stem="small", encoder="resnet8")
    assert warnings(photos(8_116, 32), CPU, {**SETTINGS, **settings, "queue_size": 1_024}) == []

"""The study of transfer: its sizes, its schedules and its trainings."""

import dataclasses
from collections.abc import Sequence
from typing import Any

TASKS = ("detection", "segmentation")
INITIALIZATIONS = {
    "random": "random initialization",
    "supervised": "supervised pre-training",
    "moco": "MoCo pre-training",
}
PRETRAINED = ("supervised", "moco")
ENCODER = "resnet18"  # The smallest ResNet that KerasHub has.


@dataclasses.dataclass(frozen=True)
class Design:
    """The numbers that all trainings of the study have in common.

    Attributes:
        scene_size: Side of the scenes in pixels, a multiple of 32.
        num_train: Number of training scenes of both tasks.
        num_test: Number of test scenes.
        batch_size: Number of scenes in a batch.
        detection_steps: Number of steps of the schedule 1x of detection.
        segmentation_steps: Number of steps of the schedule 1x of segmentation.
        schedules: Lengths of the schedules, in multiples of 1x.
        detection_learning_rate: Learning rate of detection after the warm-up.
        segmentation_learning_rate: Learning rate of segmentation after the warm-up.
        warmup_steps: Number of steps over which the learning rate rises.
        pretrain_images: Number of images of each pre-training.
        pretrain_test_images: Number of images that the supervised classifier is tested on.
        pretrain_epochs: Epochs of each pre-training.
        pretrain_batch_size: Number of images in a batch of each pre-training.
        pretrain_seed: Random seed of each pre-training.
        view_size: Side of the views of each pre-training in pixels.
        crop_scale: Smallest and largest share of an image's area in a view, in each pre-training.
        queue_size: Number of negatives of MoCo.
        moco_learning_rate: Learning rate of MoCo, for 256 images.
        supervised_learning_rate: Learning rate of the supervised pre-training, for its batch.
        supervised_weight_decay: Weight decay of the supervised pre-training; MoCo's is its default.
    """

    scene_size: int = 96
    num_train: int = 400
    num_test: int = 200
    batch_size: int = 8
    detection_steps: int = 200
    segmentation_steps: int = 100
    schedules: tuple[int, ...] = (1, 2)
    detection_learning_rate: float = 0.02
    segmentation_learning_rate: float = 0.02
    warmup_steps: int = 50
    pretrain_images: int = 8192
    pretrain_test_images: int = 1024
    pretrain_epochs: int = 25
    pretrain_batch_size: int = 128
    pretrain_seed: int = 0
    view_size: int = 64
    crop_scale: tuple[float, float] = (0.2, 1.0)
    queue_size: int = 1024
    moco_learning_rate: float = 0.06
    supervised_learning_rate: float = 0.05
    supervised_weight_decay: float = 1e-4

    @property
    def pretrain_steps(self) -> int:
        """Number of steps of each pre-training."""
        return self.pretrain_epochs * (self.pretrain_images // self.pretrain_batch_size)


@dataclasses.dataclass(frozen=True)
class Training:
    """A training of the study.

    Attributes:
        name: Its name in results.json.
        seed: Its random seed.
        settings: What it trains, the `settings` of its record.
        seconds: Estimated time on two idle CPU cores.
    """

    name: str
    seed: int
    settings: dict[str, Any]
    seconds: float


# Estimated seconds on two idle CPU cores: for an image of a pre-training, for a step of a task, and
# for the other work of a trial, such as the compilation and the test.
PRETRAIN_SECONDS = {"supervised": 0.006, "moco": 0.009}
STEP_SECONDS = {"detection": 0.5, "segmentation": 0.7}
TRIAL_SECONDS = 20.0


def pretrainings(design: Design) -> list[Training]:
    """Return the pre-trainings."""
    images = design.pretrain_steps * design.pretrain_batch_size
    return [
        Training(
            f"pre-training, {name}",
            design.pretrain_seed,
            {"initialization": name},
            PRETRAIN_SECONDS[name] * images,
        )
        for name in PRETRAINED
    ]


def trials(design: Design, seeds: Sequence[int]) -> list[Training]:
    """Return the trials, seed by seed, so that an unfinished study covers all comparisons."""
    return [
        Training(
            f"{task}, {initialization}, {schedule}x",
            seed,
            {"task": task, "initialization": initialization, "schedule": schedule},
            TRIAL_SECONDS + STEP_SECONDS[task] * steps(design, task, schedule),
        )
        for seed in seeds
        for task in TASKS
        for schedule in design.schedules
        for initialization in INITIALIZATIONS
    ]


def steps(design: Design, task: str, schedule: int) -> int:
    """Return the number of steps of a trial."""
    base = design.detection_steps if task == "detection" else design.segmentation_steps
    return schedule * base

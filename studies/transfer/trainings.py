"""The trainings of the study of transfer: the two pre-trainings, and a trial of a task."""

import io
import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from moco_tf import encoders, run_metrics
from moco_tf.backbones.loading import load_backbone
from moco_tf.config import default_config
from moco_tf.data import boxes, sources
from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.evaluation import finetune
from moco_tf.evaluation.identity import checksum
from moco_tf.evaluation.settings import FinetuneSettings, TransferSettings
from moco_tf.evaluation.transfer import detection, segmentation, trials
from moco_tf.evaluation.transfer.training import Prediction
from moco_tf.export.keras_hub_preset import to_keras_hub
from moco_tf.files import write_atomically
from moco_tf.training.run import train
from studies import runs
from studies.results import Record
from studies.transfer.design import ENCODER, Design, steps
from studies.transfer.images import SCENES, SINGLE, UNLABELED

TASKS = {"detection": detection.DETECTION, "segmentation": segmentation.SEGMENTATION}


def weights_path(workdir: str, name: str) -> str:
    """Return the path of the weights of a pre-trained backbone."""
    return os.path.join(workdir, f"{name}.npz")


def pretrain(name: str, design: Design, workdir: str) -> Record | None:
    """Pre-train a backbone, and write its weights to `weights_path`.

    A pre-training with MoCo that was stopped continues from its last checkpoint. A supervised one
    starts again.

    Args:
        name: `"moco"` or `"supervised"`.
        design: The design of the study.
        workdir: Directory of the images and of the weights.

    Returns:
        The record of the pre-training, without `name` and `seed`: a checksum of the weights,
        `seconds`, without those before an interruption, and how well the pre-training task was
        learned, with a curve. None if a signal stopped it.

    Raises:
        UserError: If a file cannot be read or written, or the training diverges.
    """
    start = time.perf_counter()
    trained = _moco(design, workdir) if name == "moco" else _supervised(design, workdir)
    if trained is None:
        return None
    backbone, measures = trained
    content = io.BytesIO()
    np.savez(content, *backbone.get_weights())
    write_atomically(weights_path(workdir, name), content.getvalue())
    seconds = round(time.perf_counter() - start, 1)
    return {"checksum": checksum(backbone), **measures, "seconds": seconds}


def _moco(design: Design, workdir: str) -> tuple[keras.Model, dict[str, Any]] | None:
    config = moco_config(design, workdir)
    directory = os.path.join(workdir, "moco")
    if train(config, directory).stopped_by is not None:
        return None
    summary = runs.summarize(config, run_metrics.read_metrics(directory))
    keys = ("final_loss", "chance", "final_contrastive_top1", "curves")
    return load_backbone(directory), {key: summary[key] for key in keys}


def moco_config(design: Design, workdir: str) -> Any:
    """Return the config of the pre-training with MoCo.

    It is MoCo v2 with the momentum and the temperature of configs/photos.py, which is for small
    images and few steps as well. With its learning rate of 0.24, this larger network changed so
    quickly that its keys could be told apart by their age: within 50 steps the contrastive accuracy
    was 98 %, while the loss rose.
    """
    config = default_config()
    config.data.source = f"npy:{os.path.join(workdir, UNLABELED)}"
    config.encoder = ENCODER
    config.head = "mlp"
    config.augmentation = "v2"
    config.augment.crop_scale = design.crop_scale
    config.rgb_operations = False  # The images are gray.
    config.image_size = design.view_size
    config.queue_size = design.queue_size
    config.momentum = 0.99
    config.temperature = 0.1
    config.batch_size = design.pretrain_batch_size
    config.learning_rate = design.moco_learning_rate
    config.schedule = "cosine"
    config.epochs = design.pretrain_epochs
    config.seed = design.pretrain_seed
    config.knn_every = 0
    config.checkpoint_every = 200
    return config


def _supervised(design: Design, workdir: str) -> tuple[keras.Model, dict[str, Any]]:
    source = sources.load(f"idx:{os.path.join(workdir, SINGLE)}")
    settings = FinetuneSettings(
        learning_rate=design.supervised_learning_rate,
        head_learning_rate=design.supervised_learning_rate,
        weight_decay=design.supervised_weight_decay,
        batch_size=design.pretrain_batch_size,
        epochs=design.pretrain_epochs,
        crop_scale=design.crop_scale,
        seed=design.pretrain_seed,
    )
    backbone = encoders.random_backbone(ENCODER, seed=design.pretrain_seed)
    tuned, _, result = finetune.fit(
        backbone, source, design.view_size, settings, "supervised pre-training"
    )
    backbone.set_weights(tuned.get_weights())
    curve = {key: [round(point[key], 4) for point in result["curve"]] for key in ("top1", "loss")}
    return backbone, {"top1": result["top1"], "curve": curve}


def run_trial(
    settings: Mapping[str, Any],
    seed: int,
    design: Design,
    workdir: str,
    images: AnnotatedImages,
) -> tuple[Record, dict[int, Prediction]]:
    """Fine-tune for a task once, and measure.

    Args:
        settings: Task, initialization and schedule, as in `studies.transfer.design.Training`.
        seed: Random seed of the trial: of the new layers, of the order of the scenes, of the flips
            and of a random initialization.
        design: The design of the study.
        workdir: Directory of the weights.
        images: The annotated scenes, with masks.

    Returns:
        The record of the trial, without `name` and `seed`: the metrics, `seconds` and the `curve`
        of the loss; and what was predicted for some test scenes.
    """

    def initialize(seed: int) -> Any:
        network = encoders.random_network(ENCODER, seed=seed)
        if settings["initialization"] != "random":
            # Shares its weights with the network.
            backbone = encoders.with_normalization(network)
            backbone.set_weights(read_weights(workdir, settings["initialization"]))
        return to_keras_hub(network)

    task = TASKS[settings["task"]]
    result, predictions = trials.run(
        task,
        initialize,
        images,
        design.scene_size,
        trial_settings(settings, seed, design),
        label=settings["task"],
    )
    [trial] = result["trials"]
    del trial["seed"]
    trial["curve"] = {
        key: [round(point[key], 4) for point in trial["curve"]] for key in ("step", "loss")
    }
    return trial, predictions


def trial_settings(settings: Mapping[str, Any], seed: int, design: Design) -> TransferSettings:
    """Return the settings of the training of a trial."""
    task = settings["task"]
    is_detection = task == "detection"
    return TASKS[task].settings(
        learning_rate=(
            design.detection_learning_rate if is_detection else design.segmentation_learning_rate
        ),
        steps=steps(design, task, settings["schedule"]),
        warmup_steps=design.warmup_steps,
        batch_size=design.batch_size,
        seed=seed,
    )


def read_weights(workdir: str, name: str) -> list[np.ndarray]:
    """Return the weights that `pretrain` wrote."""
    with np.load(weights_path(workdir, name)) as arrays:
        return [arrays[key] for key in arrays.files]


def load_scenes(workdir: str) -> AnnotatedImages:
    """Open the annotated scenes, with masks."""
    return boxes.load(f"coco:{os.path.join(workdir, SCENES)}", masks=True)

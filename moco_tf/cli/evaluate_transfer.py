"""The protocols detection and segmentation of moco-evaluate."""

import dataclasses
import os
from typing import Any

import keras
from absl import flags

from moco_tf import encoders, run_directory, workers
from moco_tf.cli import backbone_flags, result_notes
from moco_tf.data import boxes, sources
from moco_tf.data.boxes.annotations import AnnotatedImages
from moco_tf.data.pixels import default
from moco_tf.encoders.names import require_resnet
from moco_tf.errors import UserError
from moco_tf.evaluation.identity import checksum
from moco_tf.evaluation.results import require_writable, result_path, write_result
from moco_tf.evaluation.settings import Settings, TransferSettings
from moco_tf.evaluation.transfer import detection, segmentation, training, trials
from moco_tf.export.keras_hub_preset import to_keras_hub
from moco_tf.plots import boxes as box_plots

TASKS = {"detection": detection.DETECTION, "segmentation": segmentation.SEGMENTATION}
IMAGE_SIZE = 512


def run(values: flags.FlagValues, protocol: str, settings: Settings | None) -> None:
    """Fine-tune for the task, write the result and print it.

    Args:
        values: The parsed flags.
        protocol: The name that the result goes by.
        settings: Settings of the protocol.
    """
    assert isinstance(settings, TransferSettings)
    require_extra(f"--protocol={values.protocol}")
    task = TASKS[values.protocol]
    image_size = values.image_size or IMAGE_SIZE
    training.require_valid_size(task, image_size)
    _require_effect(values)
    backbone_flags.require_encoder(values)
    config = run_directory.read_config(values.workdir) if values.workdir else values.config
    backbones = {
        flag: backbone_flags.load(values, flag)
        for flag in backbone_flags.NAMES
        if values[flag].value
    }
    initializations, name, directory = _initializations(values, backbones)
    tfds_dir = values.tfds_dir or (config.data.tfds_dir if config else "")
    images = _load_images(values, task is segmentation.SEGMENTATION, tfds_dir)
    if workers.several_workers():
        weights = {flag: checksum(one) for flag, one in backbones.items()}
        workers.require_same(
            {
                "the protocol and its settings": [protocol, dataclasses.asdict(settings)],
                "the backbones": weights,
                "the images or their annotations": [images.name, images.checksum, image_size],
            }
        )
    directory = values.output_dir or directory
    if workers.is_chief():
        require_writable(directory)
    of_run = backbones.get("workdir")
    description = backbone_flags.describe(of_run, name, images.name, image_size)
    if values.compare:
        result = trials.compare(
            task, initializations, images, image_size, directory, description, settings
        )
        if workers.is_chief():
            result_notes.print_unreadable(directory, result)
            print(trials.table(task, result["rows"]))
            print(
                f"{protocol} of {name} on {images.name}; wrote {result_path(directory, protocol)}"
            )
        return
    [(initialization, initialize)] = initializations.items()
    identity = trials.identify(initialization, initialize(settings.seed), images, image_size)
    state = trials.state_of(directory, protocol, identity, images, settings)
    result, predictions = trials.run(task, initialize, images, image_size, settings, state=state)
    if not workers.is_chief():
        return
    result = {"protocol": protocol, **description, **result}
    summary = (
        f"{protocol} of {name} on {images.name}: {trials.summarize(task, result)} "
        f"({result['num_train']} training and {result['num_test']} test images)"
    )
    result_notes.print_replaced(directory, result)
    try:
        path = write_result(directory, result)
    except UserError:
        print(summary)  # A disk that has become full does not cost the result.
        raise
    trials.finish(state, settings)
    result_notes.print_unreadable(directory, result)
    if not predictions:
        print(f"{summary}; wrote {path}, without a picture, since all trials were finished before")
        return
    picture = os.path.join(directory, "eval", f"{protocol}.png")
    if task is detection.DETECTION:
        box_plots.plot_detections(picture, images, image_size, predictions)
    else:
        box_plots.plot_segmentations(picture, images, predictions)
    print(f"{summary}; wrote {path} and {picture}")


def _require_effect(values: flags.FlagValues) -> None:
    """Raise a `UserError` for a flag that has no effect on annotated images."""
    label = f"--protocol={values.protocol}"
    for name in sources.OPTIONS:
        if name != "tfds_dir" and values[name].present:
            raise UserError(
                f"--{name}={values[name].value} has no effect with {label}: leave it out"
            )
    if values.random_init and values.config.seed:
        raise UserError(
            f"--config.seed={values.config.seed} has no effect with {label}: give the seed of the "
            "first trial, which is also that of the random weights, by --seed"
        )
    if values.tfds_dir and not (values.data or "").startswith("tfds:"):
        raise UserError(
            f"--tfds_dir={values.tfds_dir} has no effect on --data={values.data}: leave it out"
        )


def _load_images(values: flags.FlagValues, masks: bool, tfds_dir: str) -> AnnotatedImages:
    images = boxes.load(values.data, masks, tfds_dir, values.skip_invalid)
    # Without the flag, an image that cannot be read is an error when its turn comes.
    if values.skip_invalid:
        images = boxes.readable_only(images, "checking images")
    if images.tally and workers.is_chief():
        print(f"{images.name}: {images.tally}")
    return images


def require_extra(label: str) -> None:
    """Check that KerasHub and pycocotools are installed.

    Args:
        label: What needs them, for the message.

    Raises:
        UserError: If one of them is not.
    """
    try:
        import keras_hub  # noqa: F401
        import pycocotools  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"{label} needs KerasHub and pycocotools: install the extra 'detection': "
            "pip install '.[detection]' in a checkout of moco-tf"
        ) from error


def _initializations(
    values: flags.FlagValues, backbones: dict[str, keras.Model]
) -> tuple[dict[str, trials.Initialize], str, str]:
    """Return the initializations by their names, the backbone's name and the result's directory.

    Args:
        values: The parsed flags.
        backbones: The backbones by the names of their flags.
    """
    network: encoders.Network | None = None
    if values.random_init:
        require_resnet(values.config.encoder, f"--protocol={values.protocol}")
        network = encoders.Network(values.config.encoder, values.config.stem, 3)
    for flag, backbone in backbones.items():
        backbone_network = encoders.network_of(backbone)
        require_resnet(backbone_network.encoder, f"--protocol={values.protocol}")
        if backbone_network.channels != 3:
            raise UserError(
                f"--{flag}={values[flag].value} takes images with {backbone_network.channels} "
                f"channels, but --protocol={values.protocol} has images with 3"
            )
        if encoders.pixels_of(backbone) != default(3):
            raise UserError(
                f"--{flag}={values[flag].value} takes images with another value range, mean or "
                f"deviation than usual, but --protocol={values.protocol} has images with 8 bits "
                "per channel: use a backbone of a run with the default settings config.data.*"
            )
        network = network or backbone_network
        if backbone_network != network:
            raise UserError(
                f"--{flag}={values[flag].value} holds a {backbone_network.encoder} with the stem "
                f"{backbone_network.stem}, but the other backbone is a {network.encoder} with the "
                f"stem {network.stem}: compare the same network"
            )
    assert network is not None

    def random(seed: int) -> Any:
        return to_keras_hub(encoders.random_network(*network, seed))

    def copies_of(backbone: keras.Model) -> trials.Initialize:
        to_keras_hub(backbone)  # Reports a network that KerasHub lacks before any data is read.
        return lambda _: to_keras_hub(backbone)

    initializations: dict[str, trials.Initialize] = {}
    if values.compare or values.random_init:
        initializations[f"random initialization, {network.encoder}"] = random
    for flag, backbone in backbones.items():
        label = "imported" if flag == "checkpoint" else "pre-trained"
        path: Any = values[flag].value
        base_name = os.path.basename(path.rstrip("/"))
        initializations[f"{label}, {base_name}"] = copies_of(backbone)
    if not backbones:
        return initializations, f"random {network.encoder}", "."
    first = next(iter(backbones))
    path = values[first].value
    assert path is not None
    return initializations, path, "." if first == "checkpoint" else path

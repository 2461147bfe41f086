"""What moco-evaluate opens and checks before a protocol that classifies or compares images."""

import dataclasses
from typing import Any, NamedTuple

from absl import flags

from moco_tf import run_data, workers
from moco_tf.cli import backbone_flags, evaluated_backbones
from moco_tf.data.sources.folder import require_outside
from moco_tf.data.sources.source import Source
from moco_tf.evaluation.identity import identify
from moco_tf.evaluation.results import require_writable
from moco_tf.evaluation.settings import Settings


class Inputs(NamedTuple):
    """A backbone, and the images that it is evaluated on.

    Attributes:
        config: Config of the backbone, or None for a SavedModel or a checkpoint.
        source: The images.
        image_size: Side of the views in pixels.
        backbone: Callable from images `[N, size, size, channels]` to features `[N, D]`.
        name: Name of the backbone.
        directory: Directory of the results.
    """

    config: Any
    source: Source
    image_size: int
    backbone: Any
    name: str
    directory: str


def load(values: flags.FlagValues) -> Inputs:
    """Open the images and load the backbone that the flags select.

    Raises:
        UserError: If one of them cannot be read, or the backbone does not take the images.
    """
    config = evaluated_backbones.read_config(values)
    source, image_size = backbone_flags.open_source(values, config)
    backbone, name, directory, channels = evaluated_backbones.load_backbone(
        values, config, source, image_size
    )
    backbone_flags.require_images(values, backbone, name, source, channels, image_size)
    return Inputs(config, source, image_size, backbone, name, values.output_dir or directory)


def describe(inputs: Inputs) -> dict[str, Any]:
    """Return the entries of a result that say what was evaluated."""
    description = backbone_flags.describe(
        inputs.backbone, inputs.name, inputs.source.name, inputs.image_size
    )
    if inputs.config is not None and "checkpoint" not in description:
        network = {key: inputs.config[key] for key in ("encoder", "stem", "seed")}
        description["random_init"] = network
    return description


def check(
    inputs: Inputs, protocol: str, settings: Settings | None, gallery: Source | None = None
) -> None:
    """Check, before hours of work, that the workers agree and the result can be written.

    Args:
        inputs: What is evaluated.
        protocol: The name that the result goes by.
        settings: Settings of the protocol.
        gallery: Images of --gallery_data, if any.

    Raises:
        UserError: If workers evaluate different backbones or images, or the directory cannot be
            written.
    """
    if workers.several_workers():
        _require_identical_workers(inputs, protocol, settings, gallery)
    if workers.is_chief():
        require_writable(inputs.directory)


def _require_identical_workers(
    inputs: Inputs, protocol: str, settings: Settings | None, gallery: Source | None
) -> None:
    """Raise a `UserError` unless all workers evaluate the same backbone on the same images.

    A run that goes on may have a newer checkpoint on one of them.
    """
    identity = identify(inputs.backbone, inputs.source, inputs.image_size)
    facts = {
        "the protocol and its settings": [protocol, settings and dataclasses.asdict(settings)],
        "the backbone": [identity.pop("weights"), identity.pop("network")],
        "the images of the evaluation": identity,
        "the images of the gallery": None
        if gallery is None
        else [gallery.name, gallery.size, run_data.of_source(gallery).checksum],
    }
    workers.require_same(facts)


def require_outside_images(values: flags.FlagValues, inputs: Inputs, picture: str) -> None:
    """Check that a picture is not written among the images.

    Raises:
        UserError: If it would be.
    """
    require_outside(values.data or inputs.config.data.source, picture)
    if values.gallery_data:
        require_outside(values.gallery_data, picture)


def print_summary(values: flags.FlagValues, inputs: Inputs, gallery: Source | None = None) -> None:
    """Print which images are evaluated."""
    if not workers.is_chief():
        return
    source = inputs.source
    if gallery is None:
        is_of_run = bool(values.workdir) and source.name == inputs.config.data.source
        print(source.summary if is_of_run else source.evaluation_summary, flush=True)
        return
    # Training and test images are not distinguished here.
    for searched in (gallery, source):
        print(searched.collection_summary, flush=True)

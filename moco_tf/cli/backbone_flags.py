"""Flags that select a backbone: of a run, of a SavedModel, or of a file of PyTorch or Keras."""

from typing import Any

import keras
from absl import flags

from moco_tf import encoders
from moco_tf.backbones import descriptions, loading, network_file, saving
from moco_tf.backbones.history import Origin
from moco_tf.cli import app
from moco_tf.config import evaluation_size
from moco_tf.data import sources
from moco_tf.data.pixels import AUTO, Pixels, of_images, range_text, same_range
from moco_tf.data.sources.source import Source
from moco_tf.encoders import foreign
from moco_tf.errors import UserError
from moco_tf.workers import is_chief

NAMES = ("workdir", "saved_model", "checkpoint")


def require_one(values: flags.FlagValues, needs_saved_model_network: bool = True) -> str:
    """Return which one of the flags `NAMES` is present.

    Args:
        values: The parsed flags.
        needs_saved_model_network: As for `require_encoder`.

    Raises:
        UserError: If none or several are present, or `require_encoder` fails.
    """
    names = [name for name in NAMES if values[name].value]
    if len(names) != 1:
        raise UserError("give exactly one of --workdir, --saved_model and --checkpoint")
    require_encoder(values, needs_saved_model_network)
    return names[0]


def selected(values: flags.FlagValues) -> str:
    """Return which one of the flags `NAMES` selects the backbone that is evaluated.

    With --compare, that of --checkpoint may be given beside that of --workdir.
    """
    return next(name for name in NAMES if values[name].value)


def origin(values: flags.FlagValues) -> Origin | None:
    """Return where the backbone comes from, for a model card; None for --random_init."""
    for name in NAMES:
        if path := values[name].value:
            return Origin(name, str(path))
    return None


def require_encoder(values: flags.FlagValues, needs_saved_model_network: bool = True) -> None:
    """Check that --encoder and --stem are present where they are needed, and only there.

    Args:
        values: The parsed flags.
        needs_saved_model_network: Whether they may say which network --saved_model holds.

    Raises:
        UserError: If one is missing or has no effect.
    """
    brings_network = _is_keras_file(values.checkpoint)
    if values.checkpoint and not values.encoder and not brings_network:
        raise UserError(
            "--checkpoint requires --encoder, the network in the checkpoint, such as resnet50"
        )
    names_network = values.checkpoint and not brings_network
    if not names_network and not (needs_saved_model_network and values.saved_model):
        for name in ("encoder", "stem"):
            if values[name].present:
                raise UserError(
                    f"--{name}={values[name].value} has no effect {_why_no_effect(values)}: "
                    f"remove --{name}"
                )
    if values["stem"].present and not values.encoder:
        raise UserError(f"--stem={values.stem} requires --encoder, the network that has this stem")


def _why_no_effect(values: flags.FlagValues) -> str:
    """Return why --encoder and --stem have no effect."""
    if _is_keras_file(values.checkpoint):
        return f"with --checkpoint={values.checkpoint}, which contains its network"
    path = values.saved_model
    if not path:
        return "without --checkpoint, whose network it names"
    try:
        network = network_file.require(path).network
        return f"with --saved_model={path}, which names its network itself ({network.encoder})"
    except UserError:  # It is not needed here, so an old SavedModel does not have to name it.
        return f"with --saved_model={path} here, because the SavedModel contains its network"


def load(values: flags.FlagValues, name: str) -> keras.Model:
    """Load the backbone that one of these flags selects.

    Args:
        values: The parsed flags.
        name: One of `NAMES`.

    Returns:
        A model of `moco_tf.encoders.build` without a head and with one BatchNormalization group:
        from normalized images `[N, H, W, C]` to features `[N, D]`.

    Raises:
        UserError: As `loading.load_query_encoder`, `loading.load_network` and
            `loading.load_checkpoint`.
    """
    if name == "workdir":
        return loading.load_query_encoder(values.workdir).backbone
    if name == "saved_model":
        return loading.load_network(values.saved_model, values.encoder, values.stem)
    if _is_keras_file(values.checkpoint):
        raise UserError(
            f"--checkpoint={values.checkpoint} can be evaluated as it is and embed images, but not "
            "be exported or used for detection, segmentation and --level=patch: give the --workdir "
            "or the --saved_model of this backbone"
        )
    return loading.load_checkpoint(values.checkpoint, values.encoder, values.stem)


def _is_keras_file(path: str | None) -> bool:
    return bool(path) and str(path).endswith(".keras")


def load_for_export(values: flags.FlagValues) -> tuple[keras.Model, Origin]:
    """Load the backbone to export, and check that the output path is free.

    Returns:
        The backbone, as `load` returns it, and its origin for the model card.

    Raises:
        UserError: As `require_one` and `load`, or if --out is missing or exists.
    """
    app.require(values, "out")
    name = require_one(values)
    saving.require_free(values.out)
    path: Any = values[name].value
    return load(values, name), Origin(name, path)


def load_with_normalization(
    values: flags.FlagValues, name: str, source: Source, head: bool = False
) -> tuple[Any, int]:
    """Load the network that one of these flags selects, with normalization.

    Args:
        values: The parsed flags.
        name: One of `NAMES`.
        source: The images. A file of PyTorch says nothing about pixel values, so it takes those of
            the images.
        head: Whether to load the whole encoder of a run, with its projection head.

    Returns:
        A callable from images `[N, H, W, C]` to features `[N, D]`, and the number of channels C.

    Raises:
        UserError: As `loading.load_saved_model`, `loading.load_encoder` and `load`.
    """
    if name == "saved_model":
        return loading.load_saved_model(values.saved_model)
    if head:
        backbone = loading.load_encoder(values.workdir)
    elif name == "checkpoint" and _is_keras_file(values.checkpoint):
        network = loading.load_keras(values.checkpoint)
        if network.is_of_classifier and is_chief():
            print(f"{values.checkpoint} is a classifier: only its backbone is used")
        backbone = encoders.with_normalization(network)
    else:
        network = load(values, name)
        if name == "checkpoint":
            network.pixels = of_images(network.pixels, source)
        backbone = encoders.with_normalization(network)
    return backbone, backbone.input_shape[-1]


def describe(backbone: Any, name: str, source_name: str, image_size: int) -> dict[str, Any]:
    """Return the entries of a result that say what was evaluated.

    Args:
        backbone: The backbone, which has the name of its checkpoint if it is that of a run.
        name: Name of the backbone.
        source_name: The string that names the images.
        image_size: Side of the images in pixels.
    """
    description = {"backbone": name, "data": source_name, "image_size": image_size}
    if checkpoint := getattr(backbone, "checkpoint", ""):
        description["checkpoint"] = checkpoint
    return description


def open_source(values: flags.FlagValues, config: Any) -> tuple[Source, int]:
    """Open the data source of --data, or else that of a config.

    Args:
        values: The parsed flags, with those of `define_source_flags` and --image_size.
        config: Config of the run, or None. Without it, both flags are present.

    Returns:
        The data source, and the side of the views in pixels.

    Raises:
        UserError: As `moco_tf.data.sources.load`.
    """
    data = values.data or config.data.source
    return load_source(values, config, data), values.image_size or evaluation_size(config)


def load_source(values: flags.FlagValues, config: Any, source_name: str) -> Source:
    """Open a data source with the options of the flags, or else of a config.

    Args:
        values: As for `open_source`.
        config: As for `open_source`.
        source_name: The string that names the source.

    Raises:
        UserError: As `moco_tf.data.sources.load`.
    """
    options: dict[str, Any] = {}
    if config:
        options = sources.options(config, source_name)
        if values["pixels"].value not in (None, config.data.pixels):
            options["value_range"] = AUTO  # The range of the run is that of another type.
    elif values.saved_model and (content := network_file.read(values.saved_model)):
        options = pixel_options(source_name, content.pixels, content.network.channels)
    for name in sources.OPTIONS:
        if values[name].value is not None:
            options[name] = values[name].value
    # Of two sources, an option may be for the other one only.
    names = [values.data or config.data.source]
    if "gallery_data" in values and values.gallery_data:
        names.append(values.gallery_data)
    for name in sources.OPTIONS:
        is_for_other = any(sources.applies(name, other) for other in names)
        if is_for_other and not sources.applies(name, source_name):
            options.pop(name, None)
    return sources.load(source_name, **options)


def pixel_options(source_name: str, pixels: Pixels, channels: int) -> dict[str, Any]:
    """Return the options of a data source that read images as a backbone takes them.

    Args:
        source_name: The string that names the source.
        pixels: The pixel values that the backbone takes.
        channels: Number of channels that it takes.
    """
    options: dict[str, Any] = {"pixels": pixels.dtype, "value_range": range_text(pixels)}
    # Other sources have channels of their own, which are compared with those of the backbone.
    is_files = source_name.startswith(sources.FILE_SCHEMES)
    return {**options, "channels": channels} if is_files else options


def require_images(
    values: flags.FlagValues,
    backbone: Any,
    name: str,
    source: Source,
    channels: int,
    image_size: int,
) -> None:
    """Raise a `UserError` unless a backbone takes views of this size of these images."""
    taken = getattr(backbone, "pixels", None)
    if channels != source.channels:
        or_flags = ""
        if source.name.startswith(sources.FILE_SCHEMES):
            or_flags = f", or read these with --channels={channels}"
            if taken is not None and not taken.are_bytes:
                or_flags += f", --pixels and --value_range={range_text(taken).replace(' ', '')}"
        raise UserError(
            f"the images of '{source.name}' have {source.channels} channels, but {name} takes "
            f"{channels}: choose images with {channels} channels by --data{or_flags}"
        )
    if taken is not None and not same_range(taken.value_range, source.value_range):
        raise UserError(
            f"the pixel values of '{source.name}' are in {range_text(source)}, but {name} takes "
            f"{range_text(taken)}: choose such images by --data, --pixels and --value_range"
        )
    if values.saved_model:
        description = descriptions.read(values.saved_model)
        backbone = foreign.read(description) if description else None
    if backbone is not None:
        foreign.require_image_size(backbone, image_size, name, "--image_size")

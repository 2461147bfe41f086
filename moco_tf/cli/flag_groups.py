"""Flags that several commands have in common. This module loads without TensorFlow."""

import dataclasses
from typing import Any

from absl import flags

from moco_tf.data.pixels import DTYPES
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import SETTINGS, Settings
from moco_tf.settings import SETTINGS as CONFIG_SETTINGS

BACKBONE_GROUP = "Backbone (give exactly one)"
DEFAULTS = {setting.key: setting.default for setting in CONFIG_SETTINGS}


def define_backbone_flags(
    values: flags.FlagValues, heading: str = BACKBONE_GROUP, is_export: bool = False
) -> None:
    """Define --workdir, --saved_model, --checkpoint, --encoder and --stem.

    Args:
        values: Flag values to define the flags in.
        heading: Heading of the flags in the help.
        is_export: Whether the command exports the backbone, so that it takes no .keras file.
    """
    group: dict[str, Any] = dict(flag_values=values, module_name=heading)
    flags.DEFINE_string(
        "workdir", None, "Run directory; the backbone is that of its newest checkpoint.", **group
    )
    flags.DEFINE_string(
        "saved_model", None, "SavedModel that moco-export saved_model wrote.", **group
    )
    flags.DEFINE_string(
        "checkpoint",
        None,
        "PyTorch or safetensors file with a ResNet: of facebookresearch/moco, torchvision, timm or "
        "another project that uses torchvision's names."
        + ("" if is_export else " Or a file of moco-export keras."),
        **group,
    )
    group["module_name"] = "Network of the backbone"
    flags.DEFINE_string(
        "encoder",
        None,
        "Name of the network in --checkpoint, such as resnet50, or in an old --saved_model "
        "without a network.json.",
        **group,
    )
    flags.DEFINE_string(
        "stem", "imagenet", "First layers of --encoder: imagenet or small.", **group
    )


def define_source_flags(values: flags.FlagValues, data_help: str, of_run: bool = True) -> None:
    """Define --data, with this help text, and the flags that say how to read it.

    Args:
        values: Flag values to define the flags in.
        data_help: Help text of --data.
        of_run: Whether the defaults of the other flags are the settings of a run, rather than those
            of `moco_tf.default_config`.
    """
    flags.DEFINE_string("data", None, data_help, flag_values=values)

    def by_default(key: str) -> str:
        if of_run:
            return "By default that of the run."
        default = DEFAULTS[f"data.{key}"]
        return f"By default {default if default != '' else 'that of tensorflow-datasets'}."

    flags.DEFINE_string(
        "image_feature",
        None,
        "Feature of a record that holds the image (tfrecord, arrayrecord and tfds sources), "
        f"extension (webdataset) or column (parquet). {by_default('image_feature')}",
        flag_values=values,
    )
    flags.DEFINE_string(
        "label_feature",
        None,
        "Feature of a record that holds the label (tfrecord, arrayrecord and tfds sources), "
        f"extension or JSON key (webdataset) or column (parquet). {by_default('label_feature')}",
        flag_values=values,
    )
    flags.DEFINE_string(
        "tfds_dir",
        None,
        f"Directory of the data sets (tfds sources only). {by_default('tfds_dir')}",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "orientation",
        None,
        "Whether to turn images as their EXIF orientation says (folder and files sources only). "
        f"{by_default('orientation')}",
        flag_values=values,
    )
    flags.DEFINE_float(
        "frame_seconds",
        None,
        "Seconds between the frames of a video that are used as images; 0 for all frames (video "
        f"sources only). {by_default('frame_seconds')}",
        lower_bound=0,
        flag_values=values,
    )


def define_pixel_flags(values: flags.FlagValues) -> None:
    """Define the flags of the pixel values, whose defaults are those of the backbone."""
    flags.DEFINE_enum(
        "pixels",
        None,
        DTYPES,
        "Type of the pixel values (folder, files and npy sources only). By default that of the "
        "backbone.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "channels",
        None,
        "Number of channels of the images (folder and files sources only). By default that of the "
        "backbone.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_string(
        "value_range",
        None,
        "Pixel values of black and white, such as 0,4095; auto or measure. By default that of the "
        "backbone.",
        flag_values=values,
    )


def define_export_flags(
    values: flags.FlagValues, out_help: str, heading: str = BACKBONE_GROUP
) -> None:
    """Define the backbone flags, under this heading, and --out."""
    define_backbone_flags(values, heading, is_export=True)
    flags.DEFINE_string("out", None, out_help, flag_values=values)


def define_settings_flags(values: flags.FlagValues) -> None:
    """Define a flag for every setting of every protocol in `SETTINGS`.

    A flag that is not on the command line has the value None, so that each protocol can have
    its own default.
    """
    fields: dict[str, dict[str, dataclasses.Field[Any]]] = {}
    for protocol, settings in SETTINGS.items():
        for field in dataclasses.fields(settings):
            fields.setdefault(field.name, {})[protocol] = field
    for name, by_protocol in fields.items():
        help_text = "\n".join(_help_texts(by_protocol))
        field = next(iter(by_protocol.values()))
        group: dict[str, Any] = dict(flag_values=values, module_name="Settings of the protocols")
        if field.metadata["item"]:
            flags.DEFINE_list(name, None, help_text, **group)
        elif field.metadata["range"].choices:
            flags.DEFINE_enum(name, None, field.metadata["range"].choices, help_text, **group)
        elif field.type is str:
            flags.DEFINE_string(name, None, help_text, **group)
        elif field.type is int:
            flags.DEFINE_integer(name, None, help_text, **group)
        else:
            flags.DEFINE_float(name, None, help_text, **group)


def read_settings(
    values: flags.FlagValues, protocol: str, unused: tuple[str, ...] = (), label: str = ""
) -> Settings:
    """Return the settings of a protocol that the flags ask for.

    Args:
        values: The parsed flags, with those of `define_settings_flags`.
        protocol: A key of `SETTINGS`.
        unused: Names of settings that have no effect here.
        label: The flags that chose the protocol, for error messages.

    Raises:
        UserError: If a flag of another protocol is present, or a value is out of range.
    """
    used = [f.name for f in dataclasses.fields(SETTINGS[protocol]) if f.name not in unused]
    reject_settings(values, used, label)
    settings = {name: _value(values, protocol, name) for name in used if values[name].present}
    try:
        return SETTINGS[protocol](**settings)
    except UserError as error:
        raise UserError(f"--{error}") from error


def reject_settings(values: flags.FlagValues, allowed: list[str], label: str) -> None:
    """Raise a `UserError` if a flag of a setting is present that is not allowed."""
    names = {f.name for settings in SETTINGS.values() for f in dataclasses.fields(settings)}
    for name in sorted(names - set(allowed)):
        if values[name].present:
            others = ", ".join(f"--{other}" for other in allowed) or "no such flags"
            raise UserError(f"--{name} has no effect with {label}: remove it; it takes {others}")


def _value(values: flags.FlagValues, protocol: str, name: str) -> Any:
    field = next(f for f in dataclasses.fields(SETTINGS[protocol]) if f.name == name)
    value: Any = values[name].value
    item = field.metadata["item"]
    if not item:
        return value
    try:
        return tuple(item(number) for number in value)
    except ValueError:
        example = field.default or ((60, 80) if item is int else (0.1, 1))
        raise UserError(
            f"--{name}={','.join(value)}: give numbers separated by commas, such as "
            f"{_format(example)}"
        ) from None


def _help_texts(by_protocol: dict[str, dataclasses.Field[Any]]) -> list[str]:
    """Return one sentence for each distinct help text, with the protocols, defaults and ranges."""
    texts: dict[str, dict[str, list[str]]] = {}
    for protocol, field in by_protocol.items():
        facts = _default_and_range(field)
        protocols = texts.setdefault(field.metadata["help"], {}).setdefault(facts, [])
        label = _label(protocol)
        if label not in protocols:
            protocols.append(label)
    return [
        f"{text} ["
        + "; ".join(
            f"{', '.join(protocols)}: {facts}" if facts else ", ".join(protocols)
            for facts, protocols in by_facts.items()
        )
        + "]"
        for text, by_facts in texts.items()
    ]


def _default_and_range(field: dataclasses.Field[Any]) -> str:
    valid = field.metadata["range"]
    # absl lists the choices of a flag itself.
    limits = "" if valid.choices else str(valid)
    default = "" if field.default is None else f"default {_format(field.default)}"
    return ", ".join(filter(None, [default, limits]))


def _label(protocol: str) -> str:
    """Return a protocol of `SETTINGS` as it is chosen on the command line."""
    protocol = protocol.removesuffix("_comparison").removesuffix("_head")
    return "linear --cached" if protocol == "linear_cached" else protocol


def _format(default: Any) -> str:
    if isinstance(default, tuple):
        return ",".join(f"{item:g}" for item in default) or "none"
    return str(default)

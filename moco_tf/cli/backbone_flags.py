"""Flags that select a backbone: of a run, of a SavedModel or of a PyTorch checkpoint."""

from typing import Any

import keras
from absl import flags

from moco_tf.backbones import loading, saving
from moco_tf.backbones.model_card import Origin
from moco_tf.cli import app
from moco_tf.errors import UserError

NAMES = ("workdir", "saved_model", "checkpoint")


def require_one(values: flags.FlagValues) -> str:
    """Return which one of the flags `NAMES` is present.

    Raises:
        UserError: If none or several are present, or `require_encoder` fails.
    """
    names = [name for name in NAMES if values[name].value]
    if len(names) != 1:
        raise UserError("give exactly one of --workdir, --saved_model and --checkpoint")
    require_encoder(values)
    return names[0]


def require_encoder(values: flags.FlagValues, needs_saved_model_network: bool = True) -> None:
    """Check that --encoder and --stem are present where they are needed, and only there.

    Args:
        values: The parsed flags.
        needs_saved_model_network: Whether they may say which network --saved_model holds.

    Raises:
        UserError: If one is missing or has no effect.
    """
    if values.checkpoint and not values.encoder:
        raise UserError(
            "--checkpoint requires --encoder, the network in the checkpoint, such as resnet50"
        )
    if not values.checkpoint and not (needs_saved_model_network and values.saved_model):
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
    path = values.saved_model
    if not path:
        return "without --checkpoint, whose network it names"
    try:
        network = loading.read_network(path)
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
    return loading.load_checkpoint(values.checkpoint, values.encoder, values.stem)


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

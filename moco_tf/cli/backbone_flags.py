"""The flags that say which backbone a script takes: of a run, a SavedModel or a PyTorch file."""

from absl import flags

from moco_tf.cli import app
from moco_tf.errors import UserError

NAMES = ("workdir", "saved_model", "checkpoint")

flags.disclaim_key_flags()  # so that --help of the script that calls `define` has them


def define():
    """Defines --workdir, --saved_model, --checkpoint, --encoder and --stem.

    Returns:
        Their holders, in this order.
    """
    return (
        flags.DEFINE_string("workdir", None, "A run, whose newest checkpoint is taken."),
        flags.DEFINE_string("saved_model", None, "A SavedModel of export/saved_model.py."),
        flags.DEFINE_string(
            "checkpoint", None, "A PyTorch file of facebookresearch/moco, torchvision or timm."
        ),
        flags.DEFINE_string(
            "encoder",
            None,
            "The network in --checkpoint, such as resnet50, or in a --saved_model that does not "
            "say it.",
        ),
        flags.DEFINE_string("stem", "imagenet", "The stem of --encoder: imagenet, or small."),
    )


def require_one():
    """The name of the one of `NAMES` that was given.

    Raises:
        UserError: none, or several; or what `require_encoder` raises.
    """
    given = [name for name in NAMES if flags.FLAGS[name].value]
    if len(given) != 1:
        raise UserError("give one of --workdir, --saved_model and --checkpoint")
    require_encoder()
    return given[0]


def require_encoder(of_saved_model=True):
    """Looks whether --encoder and --stem are given where they are needed, and only there.

    Args:
        of_saved_model: bool, whether they may say what network --saved_model holds.

    Raises:
        UserError: one is missing, or means nothing.
    """
    values = flags.FLAGS
    if values.checkpoint and not values.encoder:
        raise UserError("--checkpoint needs --encoder, the network that it holds, such as resnet50")
    if not values.checkpoint and not (of_saved_model and values.saved_model):
        for name in ("encoder", "stem"):
            if values[name].present:
                raise UserError(
                    f"--{name} says what network --checkpoint holds, and there is none: leave it "
                    "out"
                )
    if values["stem"].present and not values.encoder:
        raise UserError(f"--stem={values.stem} is that of --encoder, and there is none: give both")


def load(name):
    """The backbone that one of these flags names.

    Args:
        name: one of `NAMES`.

    Returns:
        A `keras.Model` of `moco_tf.encoders.build`, without a head, with one group of
        BatchNormalization: from normalised images `[N, H, W, C]` to features `[N, D]`.

    Raises:
        UserError: as `loading.load_query_encoder`, `loading.load_network` and
            `loading.load_checkpoint`.
    """
    from moco_tf.backbones import loading

    values = flags.FLAGS
    if name == "workdir":
        return loading.load_query_encoder(values.workdir).backbone
    load_named = loading.load_network if name == "saved_model" else loading.load_checkpoint
    return load_named(values[name].value, values.encoder, values.stem)


def chosen():
    """What an export script starts from.

    Returns:
        The backbone of the one flag that was given, as `load` returns it, and its
        `moco_tf.model_card.Origin`.

    Raises:
        UserError: what `require_one` and `load` raise; or --out is missing, or exists.
    """
    from moco_tf.backbones import saving
    from moco_tf.backbones.model_card import Origin

    app.require("out")
    name = require_one()
    saving.require_free(flags.FLAGS.out)
    return load(name), Origin(name, flags.FLAGS[name].value)

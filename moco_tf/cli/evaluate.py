"""The command moco-evaluate, which is `python evaluate.py` in a checkout."""

import sys
from collections.abc import Sequence

from absl import flags

from moco_tf.cli import app
from moco_tf.cli.flag_groups import (
    BACKBONE_GROUP,
    define_backbone_flags,
    define_pixel_flags,
    define_settings_flags,
    define_source_flags,
    read_settings,
    reject_settings,
)
from moco_tf.errors import UserError
from moco_tf.evaluation.settings import FinetuneSettings, LinearSettings, Settings

HELP = """Evaluate a backbone, frozen or fine-tuned. All protocols except cluster and
report need labels.

    python evaluate.py --protocol=knn --workdir=runs/photos
    python evaluate.py --protocol=linear --saved_model=PATH \\
        --data=folder:PATH --image_size=224
    python evaluate.py --protocol=few-shot --random_init \\
        --config=configs/photos.py
    python evaluate.py --protocol=finetune --encoder=resnet50 \\
        --checkpoint=moco_v2_200ep_pretrain.pth.tar \\
        --data=folder:PATH --image_size=224
    python evaluate.py --protocol=detection --compare --workdir=runs/mine \\
        --data=coco:PATH

Protocols:

    knn                  weighted nearest neighbors, with the features of the
                         backbone or the head
    linear               the paper's linear protocol: one layer, trained by SGD
                         on random crops
    linear --cached      the same layer as a logistic regression, in a fraction
                         of the time
    few-shot             logistic regression with a few labels per class
    retrieval            mean average precision and recall of images of the same
                         class, by cosine similarity
    anomaly              AUROC of the distance to normal images
    cluster              k-means, compared with the classes if there are labels
    finetune             a new layer and a copy of the backbone, trained by SGD
                         on random crops
    finetune --compare   the same, with the new layer alone and with all layers,
                         from this backbone, a random one and, with --workdir
                         and --checkpoint, an imported one
    detection            RetinaNet of KerasHub on the backbone, all layers
                         trained; COCO's AP
    segmentation         DeepLabV3+ of KerasHub on the backbone, all layers
                         trained; mean IoU
    ... --compare        detection or segmentation from the initializations of
                         finetune --compare
    report               a page about a run: curves, comparisons, a map of the
                         features, warnings

Results are written to DIR/eval/PROTOCOL.json, where DIR is the run directory,
the SavedModel or --output_dir. The result of --cached is linear_cached.json,
that of --features=head knn_head.json, and that of --compare
PROTOCOL_comparison.json. The report is DIR/report.html. A command that trains
and is interrupted continues when it is run again.
"""

TRANSFER = ("detection", "segmentation")
PROTOCOLS = (
    "knn",
    "linear",
    "few-shot",
    "retrieval",
    "anomaly",
    "cluster",
    "finetune",
    *TRANSFER,
    "report",
)
# The protocols that each of these flags belongs to.
MODES = {
    "cached": ("linear",),
    "features": ("knn",),
    "gallery_data": ("retrieval", "anomaly"),
    "compare": ("finetune", *TRANSFER),
    "save_classifier": ("linear", "finetune"),
    "skip_invalid": TRANSFER,
}


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_enum(
        "protocol",
        None,
        PROTOCOLS,
        "Evaluation protocol, one of those listed above; required.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "cached",
        False,
        "Whether to train the linear layer on precomputed features (--protocol=linear only).",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "features",
        "backbone",
        ["backbone", "head"],
        "Features to compare: those of the backbone, or those of the projection head of a "
        "--workdir (--protocol=knn only).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "compare",
        False,
        "Whether to compare with a random initialization (finetune, detection and segmentation "
        "only). With it, --workdir and --checkpoint can be combined.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "save_classifier",
        None,
        "File to save the trained classifier to, which must end in .keras and not exist. It loads "
        "in plain Keras (finetune, and linear without --cached).",
        flag_values=values,
    )
    define_source_flags(
        values,
        "Labeled images, such as folder:PATH; coco:PATH or tfds:NAME for detection and "
        "segmentation. By default those of the run.",
    )
    define_pixel_flags(values)
    flags.DEFINE_string(
        "gallery_data",
        None,
        "Images to search in, or normal images. All of them are used, and all labeled images of "
        "--data are queries (retrieval and anomaly only).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "skip_invalid",
        False,
        "Whether to leave out and count invalid annotations, and images that cannot be read, "
        "instead of an error (detection and segmentation only).",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "image_size",
        None,
        "Side of a view in pixels, 1 or greater. By default that of the run's evaluations; 512 for "
        "detection and segmentation, where it is a multiple of 32.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Directory to write eval/ to. By default that of the run or the SavedModel, or the current "
        "directory.",
        flag_values=values,
    )
    define_backbone_flags(values)
    flags.DEFINE_bool(
        "random_init",
        False,
        "Whether to evaluate the untrained encoder of --config.",
        flag_values=values,
        module_name=BACKBONE_GROUP,
    )
    app.define_config_flag(
        values,
        arguments,
        "Config file of the encoder for --random_init, such as configs/photos.py.",
    )
    define_settings_flags(values)
    app.define_strategy_flags(values)


def evaluate(values: flags.FlagValues) -> None:
    """Evaluate as the flags say."""
    app.require(values, "protocol")
    protocol, settings = _protocol_and_settings(values)
    _require_backbone(values)
    strategy = app.make_strategy(values)

    from moco_tf import workers
    from moco_tf.cli import (
        evaluate_features,
        evaluate_report,
        evaluate_training,
        evaluate_transfer,
    )
    from moco_tf.training.printing import printing_may_fail

    with workers.scope(strategy), printing_may_fail():
        if values.protocol in TRANSFER:
            evaluate_transfer.run(values, protocol, settings)
        elif values.protocol == "report":
            evaluate_report.run(values)
        elif isinstance(settings, LinearSettings | FinetuneSettings):
            evaluate_training.run(values, protocol, settings)
        else:
            evaluate_features.run(values, protocol, settings)


def _protocol_and_settings(values: flags.FlagValues) -> tuple[str, Settings | None]:
    """Return the name that the result goes by, and the settings from the flags."""
    for flag, protocols in MODES.items():
        if values[flag].present and values.protocol not in protocols:
            raise UserError(
                f"--{flag} requires --protocol={' or '.join(protocols)}, not "
                f"--protocol={values.protocol}"
            )
    for mode in ("cached", "compare"):
        if values.save_classifier is not None and values[mode].value:
            raise UserError(f"--save_classifier has no effect with --{mode}: leave one of them out")
    label = f"--protocol={values.protocol}"
    if values.protocol == "report":
        if not values.workdir:
            raise UserError("--protocol=report requires --workdir, the run that it is about")
        reject_settings(values, [], label)
        return "report", None
    protocol = values.protocol
    unused: tuple[str, ...] = ()
    if values.features == "head":
        if not values.workdir:
            raise UserError("--features=head requires --workdir: only a run has a head")
        protocol = "knn_head"
    elif values.cached:
        protocol, label = "linear_cached", f"{label} --cached"
    elif values.compare:
        protocol, label = f"{protocol}_comparison", f"{label} --compare"
        unused = ("layers",) if values.protocol == "finetune" else ()
    elif values.gallery_data and protocol == "retrieval":
        label, unused = f"{label} --gallery_data={values.gallery_data}", ("gallery",)
    elif protocol == "finetune" and values.layers == "head":
        label, unused = f"{label} --layers=head", ("batch_norm", "learning_rate")
    return protocol, read_settings(values, protocol, unused, label)


def _require_backbone(values: flags.FlagValues) -> None:
    """Check the flags that select the backbone and the data."""
    names = ("workdir", "saved_model", "checkpoint", "random_init")
    backbones = [name for name in names if values[name].value]
    if len(backbones) != 1 and not (values.compare and backbones == ["workdir", "checkpoint"]):
        raise UserError(
            "give exactly one of --workdir, --saved_model, --checkpoint and --random_init; with "
            "--compare, --workdir and --checkpoint can be combined"
        )
    if values.random_init:
        if values.compare:
            raise UserError(
                "--compare compares with a random initialization: give --workdir, --saved_model or "
                "--checkpoint instead of --random_init"
            )
        app.require(values, "config")
    elif values.config is not None:
        raise UserError(
            f"--config has no effect with --{backbones[0]}: leave it out. Flags such as --data and "
            "--image_size say which images are evaluated"
        )
    if values.protocol in TRANSFER:
        app.require(values, "data")
    elif backbones[0] in ("saved_model", "checkpoint") and not (values.data and values.image_size):
        raise UserError(f"--{backbones[0]} requires --data and --image_size as well")


COMMAND = app.Command("moco-evaluate", HELP, define_flags, evaluate)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return app.run(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())

"""The command `python -m studies.transfer`: detection and segmentation after pre-training."""

import shlex
import sys
from collections.abc import Sequence

from absl import flags

from moco_tf.cli import app
from moco_tf.errors import UserError
from studies import seeds

HELP = """Compare three initializations on detection and segmentation (section 4.2).

    python -m studies.transfer
    python -m studies.transfer --figures_only

The backbone starts from random weights, from supervised pre-training on images of single garments,
or from MoCo on scenes without labels; both pre-trainings see the same number of images. Then
RetinaNet and DeepLabV3+ are trained on few scenes with garments, with two lengths of the schedule.
Each training is repeated with every seed. studies/transfer/design.py has all numbers.

The whole study takes many hours on two CPU cores, and results.json has the seconds of each
training. It is written to the directory --out after every training, with pictures of predictions,
and a figure at the end. Run the same command
again to continue a study that was stopped.

The garments are those of Debian's package dataset-fashion-mnist. It needs KerasHub and pycocotools:
pip install '.[detection]' in a checkout of moco-tf.
"""


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "fashion_mnist",
        "/usr/share/datasets/fashion-mnist",
        "Folder of the IDX files of Fashion-MNIST.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "out",
        "studies/transfer",
        "Directory for results.json, the pictures and the figure.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "workdir",
        "runs/transfer",
        "Local directory for the images and the pre-trained weights.",
        flag_values=values,
    )
    seeds.define_flag(values, default=[0, 1, 2, 3, 4])
    flags.DEFINE_bool(
        "figures_only",
        False,
        "Whether to only plot the figure, from the results in --out.",
        flag_values=values,
    )


def run(values: flags.FlagValues, arguments: Sequence[str]) -> int:
    """Run the study as the flags say, and return the exit status."""
    chosen_seeds = seeds.parse(values)

    from moco_tf.cli.evaluate_transfer import require_extra
    from studies import results
    from studies.transfer import figure

    if not values.figures_only:
        require_extra("the study of transfer")
        from studies.transfer import design, study

        stopped_by = study.run(
            design.Design(),
            seeds=chosen_seeds,
            out=values.out,
            workdir=values.workdir,
            fashion_mnist=values.fashion_mnist,
            command=shlex.join(["python", "-m", "studies.transfer", *arguments]),
        )
        if stopped_by is not None:
            return 128 + stopped_by
    finished = results.read(values.out)
    if finished is None:
        raise UserError(f"--out={values.out} holds no results: run the study first")
    print(f"wrote {figure.write(values.out, finished)}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = app.Command(
        "studies.transfer",
        HELP,
        define_flags,
        lambda values: run(values, arguments),
    )
    return app.run(command, arguments)


if __name__ == "__main__":
    sys.exit(main())

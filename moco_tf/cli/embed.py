"""The command moco-embed, which is `python embed.py` in a checkout."""

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from moco_tf.cli import app
from moco_tf.cli.flag_groups import (
    define_backbone_flags,
    define_pixel_flags,
    define_source_flags,
)
from moco_tf.data.sources.source import PARTS
from moco_tf.embedding.settings import DTYPES, FORMATS, ROWS_PER_FILE
from moco_tf.errors import UserError
from moco_tf.shards import parse_shard

HELP = """Write the features of all images of a collection to files.

    python embed.py --workdir=runs/mine --out=features
    python embed.py --saved_model=PATH --data=folder:PATH --image_size=224 \\
        --out=features --format=npy

Every image has a row, with its path, its class if there is one, and its
features. The column label is the position of the class among the sorted classes
of these images; class_name can be compared with that of other images. For
unreadable images, the row contains the error message instead. If the command is
interrupted, run it again to write the missing files.

Several machines share the work if each has a --shard of its own:

    python embed.py --workdir=runs/mine --out=features --shard=0/2
    python embed.py --workdir=runs/mine --out=features --shard=1/2

Formats:

    parquet              part-00000-of-00007.parquet and so on; pandas, PyArrow
                         and DuckDB read the directory as one table
    npy                  the features in NumPy files, part-00000-of-00007.npy,
                         and the other columns in CSV files beside them
    csv                  CSV files with one column per feature dimension

_facts.json in the directory records how the features were computed. So does the
metadata of each Parquet file.
"""


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "out",
        None,
        "Directory to write to; required. A new directory, or one that an interrupted call wrote.",
        flag_values=values,
    )
    define_source_flags(values, "Images, such as folder:PATH. By default those of the run.")
    define_pixel_flags(values)
    flags.DEFINE_enum(
        "part",
        "all",
        PARTS,
        "Part of the images: all of them, the training or test images of an evaluation, or those "
        "of pre-training.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "image_size",
        None,
        "Side of a view in pixels, 1 or greater. By default that of the run's evaluations.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "format", "parquet", FORMATS, "Format of the files, one of those above.", flag_values=values
    )
    flags.DEFINE_enum(
        "dtype", "float32", DTYPES, "Data type of the features in the files.", flag_values=values
    )
    flags.DEFINE_bool(
        "normalize",
        False,
        "Whether to divide each feature by its L2 norm, so that an inner product is a cosine "
        "similarity.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "rows_per_file",
        ROWS_PER_FILE,
        "Number of rows of a file, 1 or greater.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "shard",
        "0/1",
        "Share of the files that this process writes: i/n, with i from 0 to n - 1.",
        flag_values=values,
    )
    define_backbone_flags(values)
    app.define_strategy_flags(values)


def embed(values: flags.FlagValues) -> None:
    """Write features as the flags say."""
    app.require(values, "out")
    try:
        shard = parse_shard(values.shard)
    except UserError as error:
        raise UserError(f"--{error}") from error
    if values.strategy == "multiworker":
        raise UserError(
            "--strategy=multiworker: the machines do not have to communicate. Run the command on "
            "each with a --shard of its own, such as --shard=0/4 on the first of four"
        )
    strategy = app.make_strategy(values)

    import moco_tf
    from moco_tf import run_directory, workers
    from moco_tf.cli import backbone_flags

    with workers.scope(strategy):
        kind = backbone_flags.require_one(values, needs_saved_model_network=False)
        if kind != "workdir" and not (values.data and values.image_size):
            raise UserError(f"--{kind} requires --data and --image_size as well")
        config = run_directory.read_config(values.workdir) if values.workdir else None
        source, image_size = backbone_flags.open_source(values, config)
        backbone, channels = backbone_flags.load_with_normalization(values, kind, source)
        name: Any = values[kind].value
        backbone_flags.require_images(values, backbone, name, source, channels, image_size)
        print(source.collection_summary, flush=True)
        outcome = moco_tf.embed(
            backbone,
            source,
            values.out,
            image_size,
            part=values.part,
            format=values.format,
            dtype=values.dtype,
            normalize=values.normalize,
            rows_per_file=values.rows_per_file,
            shard=shard,
            facts=_facts(kind, name, backbone),
        )
    _print(outcome, values.out, values.shard)


def _facts(kind: str, path: str, backbone: Any) -> dict[str, Any]:
    """Return what the metadata states about the backbone."""
    if kind != "workdir":
        return {kind: path}
    from moco_tf.backbones import history

    return {kind: path, "checkpoint": backbone.checkpoint, **history.facts_of_run(path)}


def _print(outcome: Any, out: str, shard: str) -> None:
    if outcome.num_unreadable:
        more = ", ..." if outcome.num_unreadable > len(outcome.unreadable) else ""
        names = ", ".join(outcome.unreadable)
        print(
            f"{outcome.num_unreadable:,} images cannot be read: {names}{more}; the column 'error' "
            "says why"
        )
    if not outcome.num_files:
        print(f"{out} has all files of the shard {shard} already: nothing was written")
        return
    rest = "" if outcome.is_complete else "; the files of other shards are not all there yet"
    files = "file" if outcome.num_files == 1 else "files"
    print(f"wrote {outcome.num_images:,} rows to {outcome.num_files} {files} in {out}{rest}")


COMMAND = app.Command("moco-embed", HELP, define_flags, embed)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return app.run(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())

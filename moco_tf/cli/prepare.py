"""The command moco-prepare, which is `python prepare.py` in a checkout."""

import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from moco_tf.cli import app
from moco_tf.cli.flag_groups import define_source_flags
from moco_tf.errors import UserError
from moco_tf.preparation.settings import (
    FORMATS,
    IMAGES_PER_FILE,
    MAX_QUALITY,
    MAX_SIDE,
    QUALITY,
)
from moco_tf.shards import parse_shard

HELP = """Shrink images and write them to a few large files, from which training reads
them faster.

    python prepare.py --data=folder:PATH --out=prepared
    python train.py --config=configs/folder.py \\
        --config.data.source='tfrecord:prepared/*.tfrecord' --workdir=runs/mine

Images that are larger than --max_side are shrunk and become JPEG files; smaller
ones are copied. The names of classes and files, and the parts for training and
testing stay the same. Labels are the positions of the sorted classes, from 0,
and labels.txt has their names. Images that cannot be read are left out and
listed in dropped.tsv. All cores are used. If the command is interrupted, run it
again to write the missing files.

Several machines share the work if each has a --shard of its own:

    python prepare.py --data=folder:PATH --out=prepared --shard=0/2
    python prepare.py --data=folder:PATH --out=prepared --shard=1/2

Formats:

    tfrecord             TFRecord files of tf.train.Example
    arrayrecord          ArrayRecord files with the same records
    webdataset           tar files, which the package webdataset reads as well
"""


def define_flags(values: flags.FlagValues, arguments: list[str]) -> None:
    """Define the flags of the command."""
    flags.DEFINE_string(
        "out",
        None,
        "Directory to write to; required. A new directory, or one that an interrupted call wrote.",
        flag_values=values,
    )
    define_source_flags(values, "Images, such as folder:PATH; required.", of_run=False)
    flags.DEFINE_enum(
        "format",
        "tfrecord",
        FORMATS,
        "Format of the files, one of those above.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_side",
        MAX_SIDE,
        "Maximum of the longer side of an image in pixels, 1 or greater.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "quality",
        QUALITY,
        f"Quality of the JPEG files, 1 to {MAX_QUALITY}.",
        lower_bound=1,
        upper_bound=MAX_QUALITY,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "images_per_file",
        IMAGES_PER_FILE,
        "Number of images of a file, 1 or greater.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "shard",
        "0/1",
        "Share of the files that this process writes: i/n, with i from 0 to n - 1.",
        flag_values=values,
    )


def prepare(values: flags.FlagValues) -> None:
    """Prepare images as the flags say."""
    app.require(values, "out")
    if values.data is None:
        raise UserError("--data is required: for example --data=folder:PATH")
    try:
        shard = parse_shard(values.shard)
    except UserError as error:
        raise UserError(f"--{error}") from error

    import moco_tf
    from moco_tf.data.sources import OPTIONS

    given: dict[str, Any] = {
        name: values[name].value
        for name in OPTIONS
        if name in values and values[name].value is not None
    }
    source = moco_tf.load_source(values.data, **given)
    print(source.summary, flush=True)
    outcome = moco_tf.prepare(
        source,
        values.out,
        format=values.format,
        max_side=values.max_side,
        quality=values.quality,
        images_per_file=values.images_per_file,
        shard=shard,
    )
    _print(outcome, values.out, values.shard)


def _print(outcome: Any, out: str, shard: str) -> None:
    if outcome.num_files:
        files = "file" if outcome.num_files == 1 else "files"
        print(f"wrote {outcome.num_files:,} {files} to {out}")
    else:
        print(f"{out} has all files of the shard {shard} already: nothing was written")
    saved = ""
    if outcome.source_bytes:
        times = outcome.source_bytes / max(outcome.bytes, 1)
        saved = f" instead of {_size(outcome.source_bytes)} ({times:.1f} times smaller)"
    print(
        f"{outcome.num_images:,} images with {_size(outcome.bytes)}{saved}; "
        f"{outcome.num_copied:,} were small enough to be copied"
    )
    if not outcome.is_complete:
        print("the files of other shards are not all there yet")
        return
    if outcome.num_dropped:
        images = "image" if outcome.num_dropped == 1 else "images"
        print(f"left out {outcome.num_dropped:,} {images}, see {out}/dropped.tsv")
    print(f"train on them with --config.data.source='{outcome.data}'")


def _size(count: int) -> str:
    """Return a number of bytes for people.

    Example:
        >>> _size(2_500_000)
        '2.5 MB'
    """
    value, unit = float(count), "bytes"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


COMMAND = app.Command("moco-prepare", HELP, define_flags, prepare)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit status."""
    return app.run(COMMAND, argv)


if __name__ == "__main__":
    sys.exit(main())

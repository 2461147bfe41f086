"""Shrink images on a cluster, with Apache Beam, as moco-prepare does on one machine.

    pip install apache-beam .
    python examples/prepare_beam.py --images='photos/**' --out=prepared/train
    moco-train --config=configs/folder.py --config.data.source='tfrecord:prepared/*.tfrecord' \\
        --workdir=runs/mine

Images are files in the formats of moco-tf, and paths can be those of any file system of Beam, such
as gs://. With --labels, the folder of an image is its class, and a file labels.txt names the
classes. The output is TFRecord files, and lines with the paths of the images that cannot be read
and the reasons. The beginning of their names says which part of the data set they are, as in
--out=prepared/train. The pipeline runs in this process; --runner with DataflowRunner, FlinkRunner
or SparkRunner and their flags runs it on a cluster.
"""

import argparse
import posixpath
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
from apache_beam.io import fileio
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

UNREADABLE = "unreadable"


class Prepare(beam.DoFn):
    """Turns a file into a record, or into a line about why it cannot be read.

    Args:
        max_side: Maximum of the longer side of an image in pixels.
        quality: Quality of the JPEG files.
        classes: The names of the classes, in order; none for no labels.
    """

    def __init__(self, max_side: int, quality: int, classes: Sequence[str]) -> None:
        self.max_side, self.quality, self.classes = max_side, quality, list(classes)

    def process(self, file: fileio.ReadableFile) -> Iterable[Any]:
        """Yield the record, or the line with a tag."""
        import tensorflow as tf

        from moco_tf.files import error_reason
        from moco_tf.names import printable
        from moco_tf.preparation.images import prepare_file
        from moco_tf.preparation.writers import Item, example

        path = file.metadata.path
        try:
            image = prepare_file(file.read(), self.max_side, self.quality)
        except tf.errors.OpError as error:
            line = f"{printable(path)}\t{printable(error_reason(error))}"
            yield beam.pvalue.TaggedOutput(UNREADABLE, line)
            return
        name = class_of(path) if self.classes else None
        label = self.classes.index(name) if name else None
        yield example(Item(0, printable(path), image, label, name))


def class_of(path: str) -> str:
    """Return the name of the folder of a file."""
    return posixpath.basename(posixpath.dirname(path))


def write_classes(images: str, out: str) -> list[str]:
    """Write labels.txt beside the output, and return the names of the classes."""
    [match] = FileSystems.match([images])
    classes = sorted({class_of(file.path) for file in match.metadata_list})
    lines = [f"{label}:{name}\n" for label, name in enumerate(classes)]
    folder = FileSystems.split(out)[0]
    if not FileSystems.exists(folder):
        FileSystems.mkdirs(folder)
    with FileSystems.create(FileSystems.join(folder, "labels.txt")) as file:
        file.write("".join(lines).encode())
    return classes


def main(argv: Sequence[str] | None = None) -> None:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="pattern of the image files")
    parser.add_argument("--out", required=True, help="beginning of the paths of the output")
    parser.add_argument("--labels", action="store_true", help="whether folders are classes")
    parser.add_argument("--max_side", type=int, default=512, help="bound of the longer side")
    parser.add_argument("--quality", type=int, default=90, help="quality of the JPEG files")
    options, beam_options = parser.parse_known_args(argv)
    classes = write_classes(options.images, options.out) if options.labels else []
    prepare = Prepare(options.max_side, options.quality, classes)
    with beam.Pipeline(options=PipelineOptions(beam_options)) as pipeline:
        prepared = (
            pipeline
            | "find" >> fileio.MatchFiles(options.images)
            | "distribute" >> beam.Reshuffle()
            | "open" >> fileio.ReadMatches()
            | "prepare" >> beam.ParDo(prepare).with_outputs(UNREADABLE, main="records")
        )
        prepared.records | "write" >> beam.io.WriteToTFRecord(
            options.out, file_name_suffix=".tfrecord"
        )
        prepared[UNREADABLE] | "write the list" >> beam.io.WriteToText(
            f"{options.out}-dropped", file_name_suffix=".tsv"
        )


if __name__ == "__main__":
    main()

"""Embed images on a cluster, with Apache Beam's RunInference and an exported SavedModel.

    moco-export saved_model --workdir=runs/mine --out=backbone
    pip install apache-beam tensorflow
    python examples/embed_beam.py --saved_model=backbone --images='photos/**' --out=features/part

Images are JPEG and PNG files, and paths can be those of any file system of Beam, such as gs://.
The output is Parquet files with the columns `image`, `error` and `features`; an image that cannot
be decoded has its error and no features. The pipeline runs in this process; --runner with
DataflowRunner, FlinkRunner or SparkRunner and their flags runs it on a cluster. moco-tf is not
needed to run it.
"""

import argparse
from collections.abc import Iterable, Sequence
from typing import Any

import apache_beam as beam
import pyarrow as pa
from apache_beam.io import fileio
from apache_beam.ml.inference.base import KeyedModelHandler, ModelHandler, RunInference
from apache_beam.options.pipeline_options import PipelineOptions

BATCH_SIZE = 64
SCHEMA = pa.schema(
    [("image", pa.string()), ("error", pa.string()), ("features", pa.list_(pa.float32()))]
)


class EncodedImages(ModelHandler[bytes, tuple[str | None, list[float] | None], Any]):
    """Computes the features of the bytes of image files with the endpoint `serve_encoded`.

    Args:
        path: Path of the SavedModel, which every worker can read.
    """

    def __init__(self, path: str) -> None:
        super().__init__(min_batch_size=1, max_batch_size=BATCH_SIZE)
        self.path = path

    def load_model(self) -> Any:
        """Return the SavedModel."""
        import tensorflow as tf

        return tf.saved_model.load(self.path)

    def run_inference(
        self, batch: Sequence[bytes], model: Any, inference_args: dict[str, Any] | None = None
    ) -> Iterable[tuple[str | None, list[float] | None]]:
        """Return an error or the features of each file.

        A file that cannot be decoded fails the whole batch, which is then computed file by file.
        """
        import tensorflow as tf

        try:
            features = model.serve_encoded(tf.constant(batch)).numpy()
            return [(None, feature.tolist()) for feature in features]
        except tf.errors.OpError as error:
            if len(batch) == 1:
                return [(reason(error), None)]
            return [result for file in batch for result in self.run_inference([file], model)]


def reason(error: Any) -> str:
    """Return the reason of an error of TensorFlow, which follows lines of a traceback."""
    lines = [line for line in error.message.splitlines() if line[:1].strip()]
    reasons = [line for line in lines if not line.startswith(("Graph exec", "Detected at"))]
    return (reasons or lines)[0]


def as_row(element: tuple[str, tuple[str | None, list[float] | None]]) -> dict[str, Any]:
    """Return a row of the output."""
    image, (error, features) = element
    return {"image": image, "error": error, "features": features}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the pipeline."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--saved_model", required=True, help="path of the SavedModel")
    parser.add_argument("--images", required=True, help="pattern of the image files")
    parser.add_argument("--out", required=True, help="beginning of the paths of the output")
    options, beam_options = parser.parse_known_args(argv)
    with beam.Pipeline(options=PipelineOptions(beam_options)) as pipeline:
        (
            pipeline
            | "find" >> fileio.MatchFiles(options.images)
            | "distribute" >> beam.Reshuffle()
            | "open" >> fileio.ReadMatches()
            | "read" >> beam.Map(lambda file: (file.metadata.path, file.read()))
            | "embed" >> RunInference(KeyedModelHandler(EncodedImages(options.saved_model)))
            | "rows" >> beam.Map(as_row)
            | "write" >> beam.io.WriteToParquet(options.out, SCHEMA, file_name_suffix=".parquet")
        )


if __name__ == "__main__":
    main()

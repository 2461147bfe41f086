"""Data for TensorBoard besides the scalars of a run: the features, and the augmented views."""

import os
from typing import Any

import ml_collections
import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from moco_tf.config import total_steps
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.sources.source import Source
from moco_tf.evaluation.features import Features
from moco_tf.files import write_atomically
from moco_tf.plots.thumbnails import jpeg, sheet, thumbnails
from moco_tf.plots.visible import visible
from moco_tf.training.callbacks import GlobalStep
from moco_tf.training.metrics_log import MetricsLog
from moco_tf.training.step_views import step_views

MAX_PAIRS = 4  # Number of pairs of views that are shown for a step.


class Projector:
    """The data of TensorBoard's embedding projector, in `tensorboard/` of a run directory.

    Args:
        workdir: Run directory.
        source: The source of the images.
        image_size: Side of the central views in pixels.
    """

    def __init__(self, workdir: str, source: Source, image_size: int) -> None:
        self.directory = os.path.join(workdir, "tensorboard")
        self.source = source
        self.image_size = image_size
        self._indices: np.ndarray | None = None  # The images that have been written.
        self._thumbnail_side = 0

    def write(self, step: int, features: Features) -> None:
        """Replace the data that was written before.

        The files are features.tsv; metadata.tsv with the names of the images, and of their classes
        if there are any; sprite.jpg with thumbnails; and projector_config.pbtxt, which names the
        others.

        Args:
            step: Global step of the features.
            features: The features to show.
        """
        tf.io.gfile.makedirs(self.directory)
        if self._indices is None or not np.array_equal(self._indices, features.indices):
            self._write_images(features)
            self._indices = features.indices
        # As text, because TensorBoard tries text first and misreads some binary files as such.
        line_format = "\t".join(["%.4g"] * features.features.shape[1]) + "\n"
        lines = [line_format % tuple(feature) for feature in features.features.tolist()]
        self._write("features.tsv", "".join(lines))
        config = projector.ProjectorConfig()
        config.embeddings.add(
            tensor_name=f"features_at_step_{step}",
            tensor_path="features.tsv",
            metadata_path="metadata.tsv",
            sprite=projector.SpriteMetadata(
                image_path="sprite.jpg", single_image_dim=[self._thumbnail_side] * 2
            ),
        )
        projector.visualize_embeddings(self.directory, config)

    def _write_images(self, features: Features) -> None:
        rows = [_to_cell(self.source.describe(int(index))) for index in features.indices]
        if features.labels is not None:
            assert self.source.class_names is not None
            # An image without a label has the label -1, and an empty cell.
            cells = [*map(_to_cell, self.source.class_names), ""]
            classes = [cells[label] for label in features.labels]
            # TensorBoard expects a header if there are several columns, and none for one column.
            rows = [f"{name}\t{row}" for name, row in zip(classes, rows, strict=True)]
            rows = ["class\timage", *rows]
        self._write("metadata.tsv", "\n".join(rows) + "\n")
        tiles = thumbnails(self.source, features.indices, self.image_size)
        self._thumbnail_side = tiles.shape[1]
        self._write("sprite.jpg", jpeg(sheet(tiles)))

    def _write(self, name: str, content: str | bytes) -> None:
        write_atomically(os.path.join(self.directory, name), content)


class ViewImages(GlobalStep):
    """Shows a few images as the encoders see them, the query's view left and the key's view right.

    They are the first images of the most recent step. They are shown after the first step, every
    `knn_every` epochs, and at the end.

    Args:
        log: The run's `MetricsLog`, to whose summary writer they go.
        start: Global step that the run starts from.
        config: Config of the run.
        batches: Batches of the run.
    """

    def __init__(
        self,
        log: MetricsLog,
        start: int,
        config: ml_collections.ConfigDict,
        batches: TwoViews,
    ) -> None:
        super().__init__(start)
        self.log = log
        self.config = config
        self.batches = batches
        self.every = config.knn_every * batches.steps_per_epoch
        self.last_step = total_steps(config, batches.steps_per_epoch)

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Show the views after the first step, every `knn_every` epochs and after the last step."""
        if self.every and (step % self.every == 0 or step in (1, self.last_step)):
            self.show(step)

    def show(self, step: int) -> None:
        """Write the summary of the views; if that fails, the run goes on without it.

        Args:
            step: The current global step.
        """
        with self.log.tensorboard.may_fail():
            self._write(step)

    def _write(self, step: int) -> None:
        augment = self.model.augment
        views = [
            visible(np.clip(view * augment.std + augment.mean, 0, 1))
            for view in step_views(self.config, self.batches, augment, step - 1, MAX_PAIRS)
        ]
        with self.log.summaries.as_default(step):
            tf.summary.image("views", np.concatenate(views, axis=2), max_outputs=MAX_PAIRS)


def _to_cell(text: str) -> str:
    """Return a text as a cell of a TSV file, on one line and without tabs."""
    return " ".join(text.split())

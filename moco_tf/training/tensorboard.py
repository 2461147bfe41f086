"""What TensorBoard shows of a run beside its scalars: the features, and the views."""

import os

import numpy as np
import tensorflow as tf
from tensorboard.plugins import projector

from moco_tf.config import total_steps
from moco_tf.files import write_atomically
from moco_tf.plots.images import visible
from moco_tf.plots.thumbnails import jpeg, sheet, thumbnails
from moco_tf.seeds import seed_for
from moco_tf.training.callbacks import GlobalStep

PAIRS = 4  # of views, shown at a time


class Projector:
    """The data of TensorBoard's embedding projector, in a run's `tensorboard/`.

    Args:
        workdir: str, the run directory.
        source: the `moco_tf.data.source.Source` of the images.
        image_size: int, side of the central views in pixels.
    """

    def __init__(self, workdir, source, image_size):
        self.directory = os.path.join(workdir, "tensorboard")
        self.source = source
        self.image_size = image_size
        self.indices = None

    def write(self, step, features):
        """Takes the place of what was there: features.tsv, metadata.tsv with the names of classes
        (if there are any) and images, sprite.jpg, and projector_config.pbtxt, which names them.

        Args:
            step: int, the global step that the features are of.
            features: `moco_tf.evaluation.features.Features`.
        """
        tf.io.gfile.makedirs(self.directory)
        if not np.array_equal(self.indices, features.indices):
            self._write_images(features)
            self.indices = features.indices
        # As text, since TensorBoard looks for text first and takes some binary files for it.
        row = "\t".join(["%.4g"] * features.features.shape[1]) + "\n"
        self._write("features.tsv", "".join(row % tuple(f) for f in features.features.tolist()))
        config = projector.ProjectorConfig()
        config.embeddings.add(
            tensor_name=f"features_at_step_{step}",
            tensor_path="features.tsv",
            metadata_path="metadata.tsv",
            sprite=projector.SpriteMetadata(
                image_path="sprite.jpg", single_image_dim=[self.side, self.side]
            ),
        )
        projector.visualize_embeddings(self.directory, config)

    def _write_images(self, features):
        names = [self.source.describe(int(index)) for index in features.indices]
        rows = [_cell(name) for name in names]
        if features.labels is not None:
            classes = [_cell(self.source.class_names[label]) for label in features.labels]
            # Several columns have a header, and a single one has none.
            rows = ["class\timage"] + [f"{c}\t{r}" for c, r in zip(classes, rows, strict=True)]
        self._write("metadata.tsv", "\n".join(rows) + "\n")
        tiles = thumbnails(self.source, features.indices, self.image_size)
        self.side = tiles.shape[1]
        self._write("sprite.jpg", jpeg(sheet(tiles)))

    def _write(self, name, contents):
        write_atomically(os.path.join(self.directory, name), contents)


class ViewImages(GlobalStep):
    """Shows a few images as the encoders see them, at the start, every `knn_every` epochs, and at
    the end: in each picture the query's view on the left and its key's on the right.

    They are the first images of the step that was just taken (at the start, of the first one).

    Args:
        summaries: a `tf.summary` writer.
        start: int, the step that the run goes on from.
        config: the run's config.
        batches: its `moco_tf.data.pipeline.TwoViews`.
    """

    def __init__(self, summaries, start, config, batches):
        super().__init__(start)
        self.summaries = summaries
        self.config = config
        self.batches = batches
        self.every = config.knn_every * batches.steps_per_epoch
        self.last_step = total_steps(config, batches.steps_per_epoch)

    def on_train_begin(self, logs=None):
        if self.every and self.step == 0:
            self.look(0)

    def on_step(self, step, logs):
        if self.every and (step % self.every == 0 or step == self.last_step):
            self.look(step)

    def look(self, step):
        # Made again, and not taken from the training's iterator, which must not lose its place.
        position = max(step - 1, 0)
        batch = next(self.batches.between(position, position + 1).as_numpy_iterator())
        # A memory bank encodes one view of an image.
        names = ("query", "key")[: 1 if self.config.mechanism == "memory_bank" else 2]
        views = [
            self._view(name, images, position) for name, images in zip(names, batch, strict=False)
        ]
        with self.summaries.as_default(step):
            tf.summary.image("views", np.concatenate(views, axis=2), max_outputs=PAIRS)

    def _view(self, name, images, position):
        augment, count = self.model.augment, self.config.batch_size
        seed = seed_for(f"{name}_view", self.config.seed, position)
        view = augment(images, tf.range(count), count, seed)[:PAIRS].numpy()
        return visible(np.clip(view * augment.std + augment.mean, 0, 1))


def _cell(text):
    """A text as a cell of a TSV file has to be: on one line, without tabs."""
    return " ".join(text.split())

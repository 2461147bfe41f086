"""The quality of the features during training: nearest-neighbor accuracy and other measures."""

import functools
from typing import Any

import keras
import ml_collections
import numpy as np
from tqdm.auto import tqdm

from moco_tf import encoders, workers
from moco_tf.config import evaluation_size, total_steps
from moco_tf.data import sources, unreadable
from moco_tf.data.pipeline import TwoViews
from moco_tf.data.sources.source import Source, sample
from moco_tf.errors import UserError
from moco_tf.evaluation import extraction, knn, quality
from moco_tf.training.accessory import Accessory
from moco_tf.training.best import BestCheckpoint
from moco_tf.training.callbacks import GlobalStep
from moco_tf.training.metrics_log import MetricsLog
from moco_tf.training.step_views import step_views
from moco_tf.training.tensorboard import Projector

# Number of images whose two views are compared.
MAX_PAIRS = 64
# The effective rank of few images is small, whatever their features.
MIN_MEASURED = 10


class KNNMonitor(GlobalStep):
    """Classifies test images by nearest neighbors every `knn_every` epochs, and logs the accuracy.

    It also logs measures of the features that need no labels, and warns once if they collapse. The
    initial weights and those after the last step are evaluated too. The evaluation of the initial
    weights follows the first step, so that a mistake that stops this step shows early. Without
    labels or test images there is no accuracy. Without test images, the measures are of the images
    of pre-training. Images that cannot be read are left out and named, whatever
    `config.data.on_error` says about those of pre-training. If an evaluation fails, as without an
    image that can be read, the run goes on, and the next one is tried again.

    Args:
        log: The run's `MetricsLog`.
        start: Global step that the run starts from.
        config: Config of the run.
        steps_per_epoch: Number of steps in an epoch.
        source: The source of the images.
        projector: A `Projector` that receives the features of the test images each time, or None.
        best: A `BestCheckpoint` that receives the values each time, or None.
        batches: Batches of the run, of whose first images two views are compared, or None.
    """

    def __init__(
        self,
        log: MetricsLog,
        start: int,
        config: ml_collections.ConfigDict,
        steps_per_epoch: int,
        source: Source,
        projector: Projector | None = None,
        best: BestCheckpoint | None = None,
        batches: TwoViews | None = None,
    ) -> None:
        super().__init__(start)
        self.log = log
        self.image_size = evaluation_size(config)
        self.last_step = total_steps(config, steps_per_epoch)
        self.source = source
        self.projector = projector
        self.best = best
        self.config = config
        self.batches = batches
        self.train = sample(source.train, knn.MAX_TRAIN)
        self.test = _measured(source)
        self.evaluation = Accessory("this evaluation of the kNN monitor", is_shared=True)
        self.every = config.knn_every * steps_per_epoch
        self.has_warned = False
        self._named: set[str] = set()  # Images that were reported, because they cannot be read.

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Build the monitor's copy of the backbone, which has the initial weights."""
        if self.every:
            # A copy, because every replica has its own moving statistics, whose mean is copied.
            self._trained = self.model.query_encoder.backbone
            self._copy = keras.models.clone_model(self._trained)
            pixels = encoders.pixels_of(self._trained)
            self._step = extraction.feature_step(encoders.with_normalization(self._copy, pixels))
            self._read_images()
            self._copy.set_weights(self._trained.get_weights())

    def _read_images(self) -> None:
        """Read the images in the next evaluation, which the later ones then have in memory."""
        self._extract_train, self._extract_test = (
            extraction.Extractor(self.source, indices, self.image_size, keep_views=True)
            for indices in (self.train, self.test)
        )

    def on_step(self, step: int, logs: dict[str, Any]) -> None:
        """Evaluate the initial weights, then every `knn_every` epochs and after the last step."""
        if self.every and step == 1:
            self.evaluate(0)
        if self.every and (step % self.every == 0 or step == self.last_step):
            self._copy.set_weights(self._trained.get_weights())
            self.evaluate(step)

    def evaluate(self, step: int) -> None:
        """Compute the features of the monitor's copy and log their accuracy.

        Args:
            step: Global step that the weights of the copy belong to.
        """
        values: dict[str, float] = {}
        with self.evaluation.may_fail():
            values, count = self._evaluate(step)
            self.evaluation.has_failed = False  # So that the next failure is reported.
        if not values:
            self._read_images()
            return
        # Values of other views cannot be compared, and the size may change when a run is resumed.
        self.log.write(step, {**values, "evaluation_size": self.image_size})
        # The weights of the model are those of the first step when the initial ones are evaluated.
        is_best = self.best is not None and step > 0 and self.best.update(step, values)
        if workers.is_chief():
            shown = {"knn_top1": "kNN top-1 {:.3f}", "effective_rank": "effective rank {:.1f}"}
            parts = [text.format(values[name]) for name, text in shown.items() if name in values]
            kept = "; the best so far" if is_best else ""
            if parts:
                tqdm.write(f"step {step}: {', '.join(parts)} on {count} images{kept}")
            # The features of some networks are nearly the same before the training.
            if values.get("collapsed") and step and not self.has_warned:
                self.has_warned = True
                self._warn_of_collapse(step, values)

    @functools.cached_property
    def _pairs(self) -> list[np.ndarray]:
        """The two views of the first images of the run; fewer if only one view is encoded."""
        if self.batches is None:
            return []
        return step_views(self.config, self.batches, self.model.augment, 0, MAX_PAIRS)

    def _evaluate(self, step: int) -> tuple[dict[str, float], int]:
        """Return the values by name, and the number of images."""
        test = self._extract_test(self._step)
        train = self._extract_train(self._step) if classifies(self.source) else None
        missing = test.unreadable | (train.unreadable if train is not None else {})
        if missing:
            self._read_images()  # The drive may have been away for a moment.
            total = len(self.test) + (len(self.train) if train is not None else 0)
            self._report_unreadable(set(missing.values()), total)
        if self.projector is not None:
            with self.log.tensorboard.may_fail():
                self.projector.write(step, test)
        values: dict[str, float] = {}
        if train is not None:
            values["knn_top1"] = knn.classify(train, test)["top1"]
        if len(test.indices) >= MIN_MEASURED:
            values |= quality.measure(test)
            if len(self._pairs) == 2:
                queries, keys = (self._copy(views, training=False).numpy() for views in self._pairs)
                values["alignment"] = quality.alignment(queries, keys)
        return values, len(test.indices)

    def _report_unreadable(self, names: set[str], total: int) -> None:
        """Name images that are left out, unless they were all named before.

        Training may never read them, so nothing else would say that the values are of the others.

        Args:
            names: Names of the images that cannot be read.
            total: Number of the images of the evaluation.
        """
        if names <= self._named:
            return
        self._named |= names
        if workers.is_chief():
            tqdm.write(f"warning: the kNN monitor {unreadable.line(names, total)}")

    def _warn_of_collapse(self, step: int, values: dict[str, float]) -> None:
        tqdm.write(
            f"warning: at step {step}, the features of different images are almost the same: their "
            f"effective rank is {values['effective_rank']:.1f}, and 95 % of the pairs have a "
            f"cosine similarity above {values['low_cosine']:.3f}. Common causes are a "
            "config.learning_rate or a config.weight_decay that is too high"
        )


def monitored_source(config: ml_collections.ConfigDict, source: Source) -> Source:
    """Return the source of the images that the kNN monitor evaluates.

    Args:
        config: Config of the run.
        source: The source of the run.

    Raises:
        UserError: If it cannot be read, or does not have what the config asks for.
    """
    if config.monitor_source:
        monitored = sources.load(
            config.monitor_source, **sources.options(config, config.monitor_source)
        )
        if monitored.channels != source.channels:
            raise UserError(
                f"config.monitor_source={monitored.name} has images with {monitored.channels} "
                f"channels, but those of '{source.name}' have {source.channels}: use images with "
                f"{source.channels} channels"
            )
        source = monitored
    _require_values(source, config.keep_best)
    return source


def _require_values(source: Source, keep_best: str) -> None:
    """Raise a `UserError` if the monitor cannot measure the value `keep_best` on a source."""
    if keep_best == "knn_top1" and not classifies(source):
        raise UserError(
            f"config.keep_best=knn_top1 needs labels and test images, which '{source.name}' lacks: "
            "set config.monitor_source to a source that has them, or keep_best to effective_rank"
        )
    if keep_best == "effective_rank" and len(_measured(source)) < MIN_MEASURED:
        raise UserError(
            f"config.keep_best=effective_rank needs {MIN_MEASURED} images or more, but "
            f"'{source.name}' has {len(_measured(source))}: set config.monitor_source to a source "
            "that has more"
        )


def classifies(source: Source) -> bool:
    """Return whether the monitor can classify the test images of a source."""
    return source.has_labels and len(source.test) > 0 and len(source.train) > 0


def _measured(source: Source) -> np.ndarray:
    """Return the indices of the images that the monitor classifies or measures."""
    return sample(source.test if len(source.test) else source.pretrain, knn.MAX_TEST)

"""Nearest-neighbor accuracy of the features during training."""

from typing import Any

import keras
import ml_collections
from tqdm.auto import tqdm

from moco_tf import distribution, encoders
from moco_tf.config import total_steps
from moco_tf.data.sources.source import Source, evenly_spaced
from moco_tf.evaluation import features, knn
from moco_tf.training.accessory import Accessory
from moco_tf.training.callbacks import GlobalStep
from moco_tf.training.metrics_log import MetricsLog
from moco_tf.training.tensorboard import Projector

# Maximum numbers of training images, the bank, and of test images, which are classified.
MAX_TRAIN = 10_000
MAX_TEST = 2_000


class KNNMonitor(GlobalStep):
    """Classifies test images by nearest neighbors every `knn_every` epochs, and logs the accuracy.

    It also does so with the initial weights and after the last step. The initial weights are
    evaluated after the first step, so that a mistake that stops this step shows early. If the
    source has no labels, only the features go to the projector. If the accuracy cannot be computed,
    as without an image that can be read, the run goes on without it.

    Args:
        log: The run's `MetricsLog`.
        start: Global step that the run starts from.
        config: Config of the run.
        steps_per_epoch: Number of steps in an epoch.
        source: The source of the images.
        projector: A `Projector` that receives the features of the test images each time, or None.
    """

    def __init__(
        self,
        log: MetricsLog,
        start: int,
        config: ml_collections.ConfigDict,
        steps_per_epoch: int,
        source: Source,
        projector: Projector | None = None,
    ) -> None:
        super().__init__(start)
        self.log = log
        self.image_size = config.image_size
        self.last_step = total_steps(config, steps_per_epoch)
        self.source = source
        self.projector = projector
        self.train = evenly_spaced(source.train, MAX_TRAIN)
        self.test = evenly_spaced(source.test, MAX_TEST)
        self.accuracy = Accessory("kNN accuracy")
        self.classifies = source.has_labels and len(self.train) > 0
        self.every = config.knn_every * steps_per_epoch if len(self.test) else 0

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Build the monitor's copy of the backbone, which has the initial weights."""
        if self.every:
            # A copy, because every replica has its own moving statistics, whose mean is copied.
            self._trained = self.model.query_encoder.backbone
            self._copy = keras.models.clone_model(self._trained)
            step = features.feature_step(encoders.with_normalization(self._copy))
            self._extract_train, self._extract_test = (
                features.Extractor(step, self.source, indices, self.image_size, keep_views=True)
                for indices in (self.train, self.test)
            )
            self._copy.set_weights(self._trained.get_weights())

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
        if self.accuracy.has_failed:
            return
        top1 = None
        with self.accuracy.may_fail():
            top1, count = self._evaluate(step)
        if top1 is not None:
            self.log.write(step, {"knn_top1": top1})
            if distribution.is_chief():
                tqdm.write(f"step {step}: kNN top-1 {top1:.3f} on {count} images")

    def _evaluate(self, step: int) -> tuple[float | None, int]:
        """Return the accuracy, None without labels, and the number of test images."""
        test = self._extract_test()
        if self.projector is not None:
            with self.log.tensorboard.may_fail():
                self.projector.write(step, test)
        if not self.classifies:
            return None, len(test.indices)
        return knn.classify(self._extract_train(), test)["top1"], len(test.indices)

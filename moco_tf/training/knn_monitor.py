"""What the features are worth while they are being learned: nearest neighbours every few epochs."""

import keras
from tqdm.auto import tqdm

from moco_tf import distribution, encoders
from moco_tf.config import total_steps
from moco_tf.data.sources.source import evenly_spaced
from moco_tf.evaluation import features, knn
from moco_tf.training.callbacks import GlobalStep

# Images that are looked at, at the most: bank and queries.
TRAIN = 10_000
TEST = 2_000


class KNNMonitor(GlobalStep):
    """Classifies held-out images by the backbone's nearest neighbours every few epochs.

    Where there are no labels, it only hands the features to the projector.

    Args:
        log: the run's `MetricsLog`.
        start: int, the step that the run goes on from.
        config: the run's config.
        steps_per_epoch: int.
        source: the `moco_tf.data.source.Source` of the images.
        projector: a `moco_tf.tensorboard.Projector`, which gets the held-out images' features at
            each look, or None.
    """

    def __init__(self, log, start, config, steps_per_epoch, source, projector=None):
        super().__init__(start)
        self.log = log
        self.image_size = config.image_size
        self.last_step = total_steps(config, steps_per_epoch)
        self.source = source
        self.projector = projector
        self.train = evenly_spaced(source.train, TRAIN)
        self.test = evenly_spaced(source.test, TEST)
        self.classifies = source.has_labels and len(self.train) > 0
        self.every = config.knn_every * steps_per_epoch if len(self.test) else 0

    def on_train_begin(self, logs=None):
        if self.every:
            # A copy: a replica's moving statistics are of its own groups until they are read.
            self.trained = self.model.query_encoder.backbone
            self.copy = keras.models.clone_model(self.trained)
            self.backbone = encoders.with_normalization(self.copy)
            if self.step == 0:
                self.look(0)

    def on_step(self, step, logs):
        if self.every and (step % self.every == 0 or step == self.last_step):
            self.look(step)

    def look(self, step):
        self.copy.set_weights(self.trained.get_weights())
        test = self.features(self.test)
        if self.projector is not None:
            self.projector.write(step, test)
        if not self.classifies:
            return
        train = self.features(self.train)
        accuracy = knn.classify(train, test)
        self.log.write(step, {"knn_top1": accuracy["top1"]})
        if distribution.is_chief():
            line = f"step {step}: kNN top-1 {accuracy['top1']:.3f} on {len(test.labels)} images"
            tqdm.write(line)

    def features(self, part):
        return features.extract(self.backbone, self.source, part, self.image_size)

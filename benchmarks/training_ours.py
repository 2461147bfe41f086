"""The training of moco-tf for the benchmark of a whole training."""

import tempfile
import time
from typing import Any

import keras
import numpy as np

from moco_tf import encoders, load_source
from moco_tf.configs.photos import get_config
from moco_tf.evaluation.extraction import Extractor, feature_step
from moco_tf.training import run


class Snapshots(keras.callbacks.Callback):
    """Keeps the weights of the backbone and the time at the end of each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[list[np.ndarray]] = []
        self.times: list[float] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Take a snapshot."""
        self.weights.append(self.model.query_encoder.backbone.get_weights())
        self.times.append(time.time())


def train(
    folder: str, settings: dict[str, Any], epochs: int, seed: int, bn_groups: int
) -> dict[str, Any]:
    """Train as train.py does, into a run directory, without the kNN monitor.

    Args:
        folder: Folder with the subfolders train and test.
        settings: The settings that both contestants share, as in configs/photos.py.
        epochs: Number of epochs.
        seed: Seed of the run.
        bn_groups: Number of BatchNormalization groups; from 2 on, the keys are shuffled.

    Returns:
        A dictionary with the time at the end of each epoch and at the end of the training, the
        number of parameters of the encoder, and the features after each epoch, float32
        `[epochs, N, D]`, and the labels, of the training and the test images.
    """
    config = get_config()
    config.update(settings)
    config.update(dict(epochs=epochs, seed=seed, knn_every=0))
    config.update(dict(bn_groups=bn_groups, shuffle_bn=bn_groups > 1))
    config.data.source = f"folder:{folder}"
    snapshots = Snapshots()
    callbacks_of_run = run._callbacks
    run._callbacks = lambda *arguments: [*callbacks_of_run(*arguments), snapshots]
    with tempfile.TemporaryDirectory() as workdir:
        run.train(config, f"{workdir}/run")
    end = time.time()
    encoder = snapshots.model.query_encoder
    result = {
        "times": snapshots.times,
        "end": end,
        "parameters": sum(int(np.prod(weight.shape)) for weight in encoder.trainable_variables),
    }
    return result | _features(encoder.backbone, snapshots.weights, config)


def _features(backbone, weights, config):
    """Return the features with the weights of each epoch, and the labels, of both parts."""
    source = load_source(config.data.source)
    result = {}
    copy = keras.models.clone_model(backbone)
    step = feature_step(encoders.with_normalization(copy))
    for part, indices in (("train", source.train), ("test", source.test)):
        extract = Extractor(source, indices, config.image_size, keep_views=True)
        features = []
        for epoch_weights in weights:
            copy.set_weights(epoch_weights)
            features.append(extract(step))
        result[f"{part}_features"] = np.stack([part.features for part in features])
        result[f"{part}_labels"] = features[-1].labels
    return result

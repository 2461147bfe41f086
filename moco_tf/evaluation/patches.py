"""Anomaly detection by patches, after PatchCore (Roth et al. 2022): which part of an image is odd.

A patch is a position of the map of the third stage of a ResNet, averaged with its neighbors. The
distance of a patch is that to the nearest patch of normal images, and the score of an image is the
largest distance of its patches.

Deviations from PatchCore: the map of the third stage alone instead of the second and third ones,
cosine distances instead of Euclidean ones, a random choice of normal patches instead of a greedy
one, and scores that are not weighted by the neighborhood of the nearest patch.
"""

import dataclasses
import re
import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from moco_tf import encoders
from moco_tf.data.sources.indices import Indices
from moco_tf.data.sources.source import Source, sample
from moco_tf.errors import UserError
from moco_tf.evaluation import anomaly, unreadable
from moco_tf.evaluation.extraction import Extractor, feature_step
from moco_tf.evaluation.features import Features, normalize, require_finite
from moco_tf.evaluation.settings import AnomalySettings

# Maximum number of patches of normal images that are kept.
MAX_PATCHES = 20_000


def third_stage(network: keras.Model) -> keras.Model:
    """Return a model from images to the map of the third stage of a ResNet.

    Args:
        network: A model of `moco_tf.encoders.build` without a head, or of
            `moco_tf.encoders.with_normalization`.

    Returns:
        A model that shares its weights, from images `[N, H, W, C]` in [0, 255] to
        `[N, h, w, D]`, in which each position is the mean of it and its neighbors.

    Raises:
        UserError: If the network is not one of this project's ResNets.
    """
    model, network = network, encoders.without_normalization(network)
    names = [layer.name for layer in network.layers]
    names = [name for name in names if re.fullmatch(r"stage3_block\d+_relu", name)]
    if not names:
        raise UserError(
            f"level=patch needs one of this project's ResNets, not {network.name}: use level=image"
        )
    stage = keras.Model(network.inputs, network.get_layer(names[-1]).output, name=network.name)
    with_images = encoders.with_normalization(stage, encoders.pixels_of(model))
    averaged = keras.layers.AveragePooling2D(3, 1, padding="same")(with_images.output)
    return keras.Model(with_images.inputs, averaged)


def choose(
    stage: keras.Model, source: Source, indices: np.ndarray, image_size: int, seed: int
) -> tuple[np.ndarray, dict[int, str]]:
    """Return patches of normal images, divided by their length.

    Args:
        stage: Result of `third_stage`.
        source: The source of the images.
        indices: int64 `[M]`, the normal images, of which a sample of `MAX_PATCHES` is used if there
            are more.
        image_size: Side of the central view in pixels.
        seed: Random seed of the choice. The patches of an image are a function of it, of the
            image's index and of M.

    Returns:
        float32 `[B, D]`, the same number of patches of each image that can be read, and about
        `MAX_PATCHES` if there are more; and the names of the images that cannot be read, by their
        indices.

    Raises:
        UserError: If none of the images can be read.
    """
    indices = sample(indices, MAX_PATCHES)
    flat = keras.Sequential([stage, keras.layers.Reshape([-1])])
    dim = stage.output_shape[-1]
    bank, readable = [], []
    extractor = Extractor(source, indices, image_size)
    for found, maps in extractor.batches(feature_step(flat)):
        patches = maps.reshape(len(maps), -1, dim)
        count = min(patches.shape[1], MAX_PATCHES // len(indices))
        for index, of_image in zip(found, patches, strict=True):
            if index >= 0:
                readable.append(index)
                generator = np.random.Generator(np.random.Philox(key=[seed, int(index)]))
                bank.append(of_image[generator.permutation(len(of_image))[:count]])
    if not bank:
        raise UserError(f"data source '{source.name}': none of the normal images can be read")
    missing = np.setdiff1d(indices, readable)
    return normalize(np.concatenate(bank)), {int(i): source.describe(int(i)) for i in missing}


def distances(
    stage: keras.Model, bank: np.ndarray, source: Source, indices: Indices, image_size: int
) -> tuple[Features, tuple[int, int]]:
    """Return the distance of each patch of test images to the nearest normal patch.

    Args:
        stage: Result of `third_stage`.
        bank: Result of `choose`.
        source: The source of the images.
        indices: int64 `[M]`, the test images.
        image_size: Side of the central view in pixels.

    Returns:
        The distances as features, float32 `[M, h * w]`, row by row of the map, and `(h, w)`.

    Raises:
        UserError: If none of the images can be read.
    """
    size = stage.compute_output_shape([1, image_size, image_size, source.channels])[1:3]
    normal = tf.Variable(bank, trainable=False)

    def nearest(patches: tf.Tensor) -> tf.Tensor:
        return 1 - tf.reduce_max(tf.matmul(patches, normal, transpose_b=True), axis=1)

    def distance_maps(images: tf.Tensor) -> tf.Tensor:
        maps = tf.math.l2_normalize(stage(images, training=False), axis=-1)
        patches = tf.reshape(maps, [images.shape[0], size[0] * size[1], maps.shape[-1]])
        # Image by image, because the similarities of a whole batch may not fit into memory.
        return tf.map_fn(nearest, patches)

    step = feature_step(distance_maps)
    return Extractor(source, indices, image_size)(step, "distances of patches"), size


def evaluate(
    network: keras.Model,
    gallery: Source | None,
    source: Source,
    image_size: int,
    settings: AnomalySettings,
) -> tuple[dict[str, Any], np.ndarray]:
    """Apply the protocol "anomaly" to patches; call this in every process of the strategy.

    Args:
        network: As for `third_stage`.
        gallery: A source of normal images, of which only those of the class `settings.normal` are
            used if it has labels. The test images are then all labeled images of `source`.
            None for the training and the test images of `source`.
        source: A source with labels.
        image_size: Side of the central view in pixels.
        settings: Settings of the protocol.

    Returns:
        The result, as `moco_tf.evaluation.protocols.evaluate` returns it, and the maps of the
        distances of the images in `most_anomalous`, `[n, h, w]`.

    Raises:
        UserError: As `third_stage`, `choose`, `distances` and `anomaly.evaluate_scores`, or if
            there are no normal images.
    """
    start = time.perf_counter()
    assert source.labels is not None
    assert source.class_names is not None
    stage = third_stage(network)
    normal = anomaly.normal_label(source.class_names, settings)
    if gallery is None:
        bank_source, test = source, source.test
        indices = source.train[source.labels[source.train] == normal]
    else:
        bank_source, test = gallery, np.flatnonzero(source.labels >= 0)
        indices = gallery.part("all")
        if gallery.class_names is not None:
            label = anomaly.normal_label(gallery.class_names, settings)
            indices = np.flatnonzero(gallery.labels == label)
    if not len(indices):
        raise UserError(f"normal={settings.normal}: there are no normal training images: add some")
    bank, unreadable_normal = choose(stage, bank_source, indices, image_size, settings.seed)
    tested, size = distances(stage, bank, source, test, image_size)
    require_finite(Features(bank, np.arange(len(bank)), None), tested)
    result = anomaly.evaluate_scores(tested.features.max(axis=1), tested, settings)
    rows = {index: row for row, index in enumerate(tested.indices.tolist())}
    shown = [rows[item["index"]] for item in result["most_anomalous"]]
    num_normal = min(len(indices), MAX_PATCHES) - len(unreadable_normal)
    result = {
        "protocol": "anomaly_patch",
        **result,
        "num_normal": num_normal,
        "num_patches": len(bank),
        "num_train": num_normal,
        "num_test": len(tested.indices),
        **unreadable.entries(unreadable_normal, tested.unreadable, tested.unreadable_classes),
        "seconds": round(time.perf_counter() - start, 3),
        **dataclasses.asdict(settings),
    }
    return result, tested.features[shown].reshape(-1, *size)

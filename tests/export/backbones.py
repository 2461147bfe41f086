"""Helpers for the tests of all formats: runs to export, and processes that load an export."""

import os
import subprocess
import sys

import keras
import numpy as np

from moco_tf import encoders
from moco_tf.config import default_config
from moco_tf.training.run_model import start_from
from tests.images import crops


def randomize(backbone):
    """Randomize BatchNormalization, since a converter could leave out one that is the identity."""
    for number, weight in enumerate(backbone.weights):
        if "bn" in weight.path:
            low, high = (-0.3, 0.3) if weight.path.endswith(("beta", "moving_mean")) else (0.5, 1.5)
            weight.assign(np.random.default_rng(number).uniform(low, high, weight.shape))
    return backbone


def make_run(workdir, encoder, stem):
    """Create a run at step 0 whose backbone is randomized.

    Where any encoder will do, the fixture `trained_run` is cheaper.
    """
    config = default_config()
    settings = {"encoder": encoder, "stem": stem, "image_size": 32, "batch_size": 16}
    settings |= {"bn_groups": 2, "queue_size": 64, "dim": 8, "data.source": "photos"}
    config.update_from_flattened_dict(settings)
    start_from(lambda model: randomize(model.query_encoder.backbone), config, str(workdir))
    return workdir


def features_of(network, images):
    """Return the features of images that NumPy normalizes with the numbers of ImageNet."""
    mean, std = np.float64([0.485, 0.456, 0.406]), np.float64([0.229, 0.224, 0.225])
    normalized = (np.float64(images) / 255 - mean) / std
    return network(normalized.astype(np.float32), training=False).numpy()


def both_kinds():
    """Return a network of `encoders.build`, and the same one in a model that normalizes."""
    network = randomize(encoders.random_network("resnet8", stem="small"))
    return network, encoders.with_normalization(network)


def photographs(count, height, width):
    """Return images with values between 0 and 255, float32 `[count, height, width, 3]`."""
    images = np.stack(crops(count, max(height, width)))[:, :height, :width]
    return images.astype(np.float32)


def consume(folder, code):
    """Run Python code in `folder`, in a process where this project cannot be imported."""
    hidden = "import sys; sys.modules['moco_tf'] = None\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", hidden + code], cwd=folder, env=environment, check=True)


def assert_close(actual, expected, tolerance=1e-5):
    """Compare two arrays that differ by at most 1e-4 of a value plus `tolerance` of the largest."""
    actual, expected = map(keras.ops.convert_to_numpy, (actual, expected))
    assert actual.shape == expected.shape
    assert expected.std() > 1e-3
    largest = np.abs(expected).max()
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=tolerance * largest)

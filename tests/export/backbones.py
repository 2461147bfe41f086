"""What the tests of export/ share: runs to export, and processes that load the exports."""

import os
import subprocess
import sys

import keras
import numpy as np

from moco_tf.config import default_config
from moco_tf.training.run import start_from
from tests.images import crops


def randomize(backbone):
    """Takes every BatchNormalization away from the identity, so that none can be left out."""
    for number, weight in enumerate(backbone.weights):
        if "bn" in weight.path:
            low, high = (-0.3, 0.3) if weight.path.endswith(("beta", "moving_mean")) else (0.5, 1.5)
            weight.assign(np.random.default_rng(number).uniform(low, high, weight.shape))
    return backbone


def make_run(workdir, encoder, stem):
    """A run of no step, on photographs of the astronaut."""
    config = default_config()
    settings = {"encoder": encoder, "stem": stem, "image_size": 32, "batch_size": 16}
    settings |= {"bn_groups": 2, "queue_size": 64, "dim": 8, "data.source": "photos"}
    config.update_from_flattened_dict(settings)
    start_from(lambda model: randomize(model.query_encoder.backbone), config, str(workdir))
    return workdir


def photographs(count, height, width):
    """float32 `[count, height, width, 3]` of 0 to 255."""
    images = np.stack(crops(count, max(height, width)))[:, :height, :width]
    return images.astype(np.float32)


def consume(folder, code):
    """Runs Python code in `folder`, in a process that cannot import this project."""
    hidden = "import sys; sys.modules['moco_tf'] = None\n"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", hidden + code], cwd=folder, env=environment, check=True)


def assert_close(found, expected, tolerance=1e-5):
    """Two arrays that differ by no more than `tolerance` of the largest value, and 1e-4 each."""
    found, expected = map(keras.ops.convert_to_numpy, (found, expected))
    assert found.shape == expected.shape and expected.std() > 1e-3
    largest = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=tolerance * largest)

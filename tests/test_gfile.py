"""Images and run directory on a file system of TensorFlow's own, such as `gs://`."""

import pytest
import tensorflow as tf

from moco_tf import load_backbone, run_metrics
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.evaluation import protocols
from moco_tf.evaluation.results import write_result
from moco_tf.training.run import train
from tests.images import write_folder

# In memory; only TensorFlow can open these paths.
IMAGES, WORKDIR = "ram://images", "ram://runs/first"


@pytest.fixture
def config(tmp_path):
    folder = write_folder(tmp_path / "photos", images_per_class=16)
    for path in folder.rglob("*.*"):
        copy = f"{IMAGES}/{path.relative_to(folder)}"
        tf.io.gfile.makedirs(copy.rpartition("/")[0])
        tf.io.gfile.copy(str(path), copy)
    config = default_config()
    settings = {"encoder": "resnet8", "stem": "small", "image_size": 16, "batch_size": 16}
    settings |= {"bn_groups": 2, "queue_size": 64, "knn_every": 1, "steps": 2}
    config.update_from_flattened_dict({"data.source": f"folder:{IMAGES}", **settings})
    return config


@pytest.mark.nightly
def test_training_and_evaluation_use_the_file_system_of_tensorflow(config):
    assert train(config, WORKDIR).step == 2
    assert train(config, WORKDIR).step == 2  # The run is finished already.
    names = {"config.json", "data.json", "metrics.jsonl", "curves.png", "checkpoints"}
    assert names <= {name.rstrip("/") for name in tf.io.gfile.listdir(WORKDIR)}
    metrics = run_metrics.read_metrics(WORKDIR)
    assert [line["step"] for line in metrics if "loss" in line] == [2]

    source = sources.load(f"folder:{IMAGES}")
    train_features, test_features = protocols.extract_both(load_backbone(WORKDIR), source, 16)
    result = protocols.evaluate("knn", train_features, test_features)
    path = write_result(WORKDIR, result)
    assert path.startswith(WORKDIR)
    assert tf.io.gfile.exists(path)

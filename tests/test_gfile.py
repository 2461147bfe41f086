"""Images and run directory on a file system of TensorFlow's own, as `gs://` is one."""

import tensorflow as tf

from moco_tf import load_backbone
from moco_tf.config import default_config
from moco_tf.data import sources
from moco_tf.evaluation import protocols
from moco_tf.run_directory import read_metrics
from moco_tf.training.run import train
from tests.images import write_folder

IMAGES, WORKDIR = "ram://images", "ram://runs/first"  # in memory; nothing else can open it


def config(epochs):
    config = default_config()
    settings = {"encoder": "resnet8", "stem": "small", "image_size": 16, "batch_size": 16}
    settings |= {"bn_groups": 2, "queue_size": 64, "knn_every": 1, "steps": epochs * 2}
    config.update_from_flattened_dict({"data.source": f"folder:{IMAGES}", **settings})
    return config


def test_training_and_evaluation_read_and_write_through_gfile(tmp_path):
    folder = write_folder(tmp_path / "photos", each=16)
    for path in folder.rglob("*.*"):
        copy = f"{IMAGES}/{path.relative_to(folder)}"
        tf.io.gfile.makedirs(copy.rpartition("/")[0])
        tf.io.gfile.copy(str(path), copy)

    assert train(config(1), WORKDIR).step == 2
    assert train(config(1), WORKDIR).step == 2  # it finds itself finished
    names = {"config.json", "data.json", "metrics.jsonl", "curves.png", "checkpoints"}
    assert names <= {name.rstrip("/") for name in tf.io.gfile.listdir(WORKDIR)}
    assert [line["step"] for line in read_metrics(WORKDIR) if "loss" in line] == [2]

    source = sources.load(f"folder:{IMAGES}")
    features = protocols.extract_both(load_backbone(WORKDIR), source, 16)
    result = protocols.evaluate("knn", *features, len(source.class_names))
    path = protocols.write_result(WORKDIR, result)
    assert path.startswith(WORKDIR) and tf.io.gfile.exists(path)

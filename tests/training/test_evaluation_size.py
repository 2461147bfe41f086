"""A run whose evaluations see larger views than its training."""

import json

import keras
import pytest

import moco_tf
from moco_tf import run_directory, run_metrics
from moco_tf.cli import evaluate, train
from moco_tf.configs.photos import get_config
from moco_tf.data import sources
from moco_tf.evaluation import knn
from moco_tf.evaluation.extraction import extract
from moco_tf.export import saved_model
from tests.images import write_folder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("evaluation_size")
    folder = write_folder(directory / "images", images_per_class=20, side=24)
    workdir = str(directory / "run")
    config = get_config()
    config.update(image_size=16, evaluation_size=24, batch_size=16, bn_groups=2, queue_size=32)
    config.update(steps=2, knn_every=1)
    config.data.source = f"folder:{folder}"
    moco_tf.train(None, workdir, config=config)
    return workdir


def test_monitor_evaluates_larger_views(run):
    source = sources.from_config(run_directory.read_config(run))
    backbone = moco_tf.load_backbone(run)
    train_features, test_features = (
        extract(backbone, source, part, 24) for part in (source.train, source.test)
    )
    expected = knn.classify(train_features, test_features)["top1"]
    *_, last = [line for line in run_metrics.read_metrics(run) if "knn_top1" in line]
    assert last["step"] == 2
    assert last["knn_top1"] == pytest.approx(expected)


@pytest.mark.parametrize(("flags", "size"), [([], 24), (["--image_size=16"], 16)])
def test_evaluation_takes_that_size_unless_another_is_given(run, tmp_path, flags, size):
    arguments = ["--protocol=knn", f"--workdir={run}", f"--output_dir={tmp_path}", *flags]
    assert evaluate.main(arguments) == 0
    result = json.loads((tmp_path / "eval" / "knn.json").read_text(encoding="utf-8"))
    assert result["image_size"] == size


def test_report_and_export_take_that_size(run, tmp_path):
    moco_tf.load_run(run).report()
    with open(f"{run}/eval/report.json", encoding="utf-8") as file:
        assert json.load(file)["image_size"] == 24
    with open(f"{run}/report.html", encoding="utf-8") as file:
        assert "views of 16 px, of 24 px in evaluations" in file.read()
    assert saved_model.main([f"--workdir={run}", f"--out={tmp_path / 'export'}"]) == 0
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    assert "24x24" in card


def test_encoder_with_a_fixed_size_refuses_another_one(tmp_path, capsys):
    images = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(4, 3, use_bias=False)(images)
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(maps))
    encoder = str(tmp_path / "encoder.keras")
    keras.Model(images, features).save(encoder)
    folder = write_folder(tmp_path / "images", images_per_class=20)
    arguments = [
        *("--config=configs/photos.py", f"--config.data.source=folder:{folder}"),
        *("--config.batch_size=16", "--config.bn_groups=2", f"--config.encoder={encoder}"),
        *("--config.stem=imagenet", "--config.image_size=32", "--config.evaluation_size=48"),
        f"--workdir={tmp_path / 'run'}",
    ]
    assert train.main(arguments) == 2
    message = (
        f"error: config.evaluation_size=48 does not fit {encoder}, which takes images of 32x32"
    )
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()

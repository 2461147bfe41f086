"""Plans of real sources: made, trained with, and frozen in the run directory."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from moco_tf import encoders
from moco_tf.config import flatten
from moco_tf.config_checks import check
from moco_tf.configs.auto import get_config
from moco_tf.configs.photos import get_config as get_photos_config
from moco_tf.errors import UserError
from moco_tf.export.keras_v3 import export_keras
from moco_tf.export.saved_model import export_saved_model
from moco_tf.plan import devices, plan
from moco_tf.plan.rules import PLANNED
from moco_tf.training.preview import preview
from moco_tf.training.run import train
from tests import in_process
from tests.conftest import source_flag
from tests.images import write_folder
from tests.plan.facts import GPU

AUTO = "--config=configs/auto.py"


def auto(source, **settings):
    config = get_config()
    config.data.source = source
    config.update_from_flattened_dict(settings)
    return config


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Let plans find a GPU, as if a run were resumed on another machine."""
    monkeypatch.setattr(devices, "look", lambda: GPU)


@pytest.fixture(scope="module")
def run(tmp_path_factory, image_folder):
    """Return the directory of a run of two steps with a planned config, and what it printed."""
    workdir = tmp_path_factory.mktemp("auto") / "run"
    flags = (AUTO, source_flag(image_folder), "--config.steps=2", "--config.knn_every=0")
    return workdir, in_process.run("train.py", *flags, "--config.queue_size=77", workdir=workdir)


def test_plan_of_the_demos_images_on_this_machine():
    made = plan.make(auto("photos"))
    demo = get_photos_config()
    for key in set(PLANNED) - {"rgb_operations", "precision"}:
        assert made.config[key] == demo[key], key
    words = set(pathlib.Path("/proc/cpuinfo").read_text().split())
    computes_in_bfloat16 = bool(words & {"avx512_bf16", "amx_bf16"})
    assert made.config.precision == ("mixed_bfloat16" if computes_in_bfloat16 else "float32")
    assert made.warnings == []
    assert made.reasons.keys() == set(PLANNED)
    assert made.devices.kind == "cpu"
    assert made.devices.memory > 2**28


def test_plan_shows_each_setting_with_its_reason_and_the_hint():
    made = plan.make(auto("photos", temperature=0.5))
    lines = str(made).splitlines()
    for key in PLANNED:
        [line] = [line for line in lines if line.startswith(f"{key} ")]
        assert line.endswith(made.reasons[key])
    assert made.reasons["temperature"] == "set by you"
    assert "config.augmentation=any_orientation" in lines[-1]
    # The columns are aligned.
    start, end = lines.index(""), len(lines) - 1 - lines[::-1].index("")
    columns = {line.index(made.reasons[line.split()[0]]) for line in lines[start + 2 : end]}
    assert len(columns) == 1


def test_a_complete_config_is_not_changed():
    config = get_photos_config()
    assert plan.resolve(config) is config
    made = plan.make(config)
    assert flatten(made.config) == flatten(config)
    assert set(made.reasons.values()) == {"as in the config"}


def test_the_config_that_is_given_is_not_changed():
    config = auto("photos")
    plan.make(config)
    assert plan.open_settings(config) == list(PLANNED)


def test_run_prints_its_plan_and_records_it(run, image_folder):
    workdir, output = run
    saved = json.loads((workdir / "config.json").read_text())
    made = plan.make(auto(f"folder:{image_folder}", steps=2, knn_every=0, queue_size=77))
    assert saved == json.loads(made.config.to_json_best_effort())
    assert None not in [saved[key] for key in PLANNED]
    assert saved["queue_size"] == 77
    assert str(made) in output
    assert "warning: 100 images are few" in output


def test_resumed_run_keeps_its_plan_on_other_devices(run, image_folder, tmp_path, on_a_gpu):
    workdir = shutil.copytree(run[0], tmp_path / "run")
    before = (workdir / "config.json").read_bytes()
    config = auto(f"folder:{image_folder}", steps=2, knn_every=0)
    assert plan.make(config).config.encoder == "resnet18"  # What a new run would have.
    resolved = plan.resolve(config, str(workdir))
    assert json.loads(resolved.to_json_best_effort()) == json.loads(before)
    assert train(config, str(workdir)).step == 2
    assert (workdir / "config.json").read_bytes() == before


def test_plan_of_a_run_is_refused_if_its_training_would_be(run):
    with pytest.raises(UserError, match="holds a run with another config .*data.source"):
        plan.make(auto("photos", steps=2, knn_every=0), str(run[0]))


@pytest.mark.parametrize(
    ("number", "settings", "message"),
    [
        (1, {}, "has one image for pre-training, but at least two are needed"),
        (8, {"batch_size": 10, "bn_groups": 2}, "batch_size=10 is more than the 8 images"),
    ],
)
def test_images_that_make_no_batch_are_refused(image_folder, tmp_path, number, settings, message):
    for path in sorted(image_folder.rglob("*.*"))[:number]:
        shutil.copy(path, tmp_path)
    with pytest.raises(UserError, match=message):
        plan.make(auto(f"folder:{tmp_path}", **settings))


def test_resumed_run_refuses_another_value(run, image_folder):
    config = auto(f"folder:{image_folder}", steps=2, knn_every=0, queue_size=50)
    with pytest.raises(UserError, match="queue_size is 77 there and 50 here"):
        train(config, str(run[0]))


def test_resumed_run_refuses_changed_images(run, tmp_path):
    folder = write_folder(tmp_path / "other", images_per_class=20)
    config = auto(f"folder:{folder}", steps=2, knn_every=0)
    with pytest.raises(UserError, match="data.source is"):
        train(config, str(run[0]))


def test_run_that_starts_from_another_has_its_network(run, image_folder, on_a_gpu):
    made = plan.make(auto(f"folder:{image_folder}", init=f"run:{run[0]}"))
    network = made.config.encoder, made.config.stem
    assert network == ("resnet8", "small")
    assert (made.config.image_size, made.config.evaluation_size) == (16, 32)
    assert made.reasons["encoder"] == f"that of run:{run[0]}"


def test_size_of_evaluations_is_not_that_of_a_run_if_the_views_are_given(run, image_folder):
    made = plan.make(auto(f"folder:{image_folder}", init=f"run:{run[0]}", image_size=64))
    assert (made.config.image_size, made.config.evaluation_size) == (64, 0)


def test_weights_that_cannot_be_read_are_reported(image_folder, tmp_path):
    with pytest.raises(UserError, match=r"none\.keras"):
        plan.make(auto(f"folder:{image_folder}", init=f"keras:{tmp_path}/none.keras"))


def test_plan_refuses_settings_that_a_run_refuses(image_folder, tmp_path):
    source = f"folder:{image_folder}"
    with pytest.raises(UserError, match="data.label_feature= applies to tfrecord, .* only: leave"):
        plan.make(auto(source, **{"data.label_feature": ""}))
    export_keras(encoders.build("resnet8", stem="small"), str(tmp_path / "backbone.keras"))
    with pytest.raises(UserError, match="has the checksum .*, not 0123"):
        plan.make(auto(source, init=f"keras:{tmp_path}/backbone.keras", init_checksum="0123"))


def test_run_that_starts_from_an_export_has_its_network(image_folder, tmp_path, on_a_gpu):
    backbone = encoders.build("resnet8", stem="small")
    export_keras(backbone, str(tmp_path / "backbone.keras"))
    export_saved_model(encoders.with_normalization(backbone), str(tmp_path / "saved_model"))
    for init in (f"keras:{tmp_path}/backbone.keras", f"saved_model:{tmp_path}/saved_model"):
        made = plan.make(auto(f"folder:{image_folder}", init=init))
        assert (made.config.encoder, made.config.stem) == ("resnet8", "small")
        assert made.config.image_size <= 64
        assert made.reasons["encoder"] == f"that of {init}"


def test_weights_of_keras_hub_decide_the_encoder(image_folder):
    made = plan.make(auto(f"folder:{image_folder}", init="keras_hub:resnet_18_imagenet"))
    assert made.config.encoder == "keras_hub:resnet_18_imagenet"
    assert (made.config.stem, made.config.epochs) == ("imagenet", 50)


@pytest.mark.nightly
def test_preview_plans_too(image_folder, tmp_path, capsys):
    preview(auto(f"folder:{image_folder}"), str(tmp_path / "views.png"))
    assert (tmp_path / "views.png").read_bytes().startswith(b"\x89PNG")
    assert "image_size       16 " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "config.batch_size=0: must be 1 or greater"),
        ({"encoder": "resnet99"}, "unknown encoder 'resnet99'"),
        ({"weight_decay": None}, "config.weight_decay is None: set it to a value"),
        ({"data.source": ""}, "config.data.source='': set it to"),
        ({"data.source": "folder:/no/such/folder"}, "there is no folder '/no/such/folder'"),
        ({"batch_size": 10, "bn_groups": 4}, "batch_size=10 cannot be split"),
        ({"batch_size": 5_000_000}, "batch_size=5000000 is more than the 100 images"),
    ],
)
def test_mistake_is_named_before_anything_is_planned(image_folder, tmp_path, settings, message):
    config = auto(f"folder:{image_folder}", **settings)
    with pytest.raises(UserError, match=message):
        train(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_where_nothing_is_planned_an_open_setting_is_one_line():
    with pytest.raises(UserError, match="config.encoder is None: set it to a value. Only a"):
        check(auto("photos"))
    line = in_process.run_mistake(
        *("evaluate.py", "--protocol=knn", "--random_init", AUTO, "--data=photos")
    )
    assert "is None: set it to a value" in line


def test_plan_depends_on_facts_only(image_folder):
    config = auto(f"folder:{image_folder}")
    first, second = plan.make(config), plan.make(config)
    assert dataclasses.replace(second, config=first.config) == first
    assert flatten(second.config) == flatten(first.config)

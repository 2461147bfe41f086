"""The study through its command: with runs that are replaced by made-up records, and one real run
that is stopped and resumed.
"""

import json
import pathlib
import signal

import numpy as np
import pytest

from moco_tf.config_checks import check
from studies import experiments, readme, study
from studies.__main__ import main
from tests import command
from tests.images import write_folder
from tests.studies.made_up import make_record

SETTINGS = [
    argument for argument in command.TINY if not argument.startswith(("--config.e", "--config.knn"))
]
SETTINGS += ["--config.encoder=resnet8", "--only=width", "--seeds=0", "--epochs=1"]
NAMES = ["epochs=0", "base", "encoder=resnet8w2,epochs=0", "encoder=resnet8w2"]
LOSS = [7.0, 6.0, 5.0, 4.9]
STEPS = 6  # 16 of 96 images each.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "photos", images_per_class=48)


@pytest.fixture
def arguments(folder, tmp_path):
    """Arguments of a study with four runs, of which two train."""
    return [
        *SETTINGS,
        f"--config.data.source=folder:{folder}",
        f"--workdir={tmp_path / 'runs'}",
        f"--out={tmp_path / 'out'}",
    ]


@pytest.fixture
def started(monkeypatch):
    """Replace every run by a record, and return the configs and directories of the runs."""
    monkeypatch.setattr(readme, "write", lambda directory: [])  # It takes seconds.
    started = []

    def make_run(config, workdir, signals, on_poll, labels):
        if config.epochs:
            check(config)
        started.append((config, workdir))
        return make_record(0.5, LOSS if config.epochs else None)

    monkeypatch.setattr(study, "run_in_process", make_run)
    return started


def read_results(tmp_path):
    return json.loads((tmp_path / "out" / "results.json").read_text())


def test_every_run_has_its_settings_and_a_record(arguments, started, tmp_path):
    assert main(arguments) == 0
    results = read_results(tmp_path)
    assert [run["name"] for run in results["runs"]] == NAMES
    assert results["runs"][2]["settings"] == {"encoder": "resnet8w2", "epochs": 0}
    assert [config.encoder for config, _ in started] == ["resnet8"] * 2 + ["resnet8w2"] * 2
    assert [config.epochs for config, _ in started] == [0, 1, 0, 1]
    # Only the experiment "shuffling", which the base run belongs to, needs kNN curves.
    assert [config.knn_every for config, _ in started] == [0, 1, 0, 0]
    assert started[1][1] == str(tmp_path / "runs" / "base" / "seed0")
    assert set(results["versions"]) == {"tensorflow", "keras", "numpy"}
    assert results["commands"][0].startswith("python -m studies --config=configs/photos.py")
    assert results["data"]["num_images"] == 96


def test_finished_runs_are_not_run_again(arguments, started, tmp_path):
    main(arguments)
    results = read_results(tmp_path)
    del results["runs"][1]
    (tmp_path / "out" / "results.json").write_text(json.dumps(results))
    assert main(arguments) == 0
    assert [workdir for _, workdir in started[4:]] == [str(tmp_path / "runs" / "base" / "seed0")]
    assert [run["name"] for run in read_results(tmp_path)["runs"]] == [
        NAMES[0],
        *NAMES[2:],
        NAMES[1],
    ]


def test_another_seed_is_added_to_the_study(arguments, started, tmp_path):
    main(arguments)
    assert main([*arguments, "--seeds=1"]) == 0
    results = read_results(tmp_path)
    assert results["seeds"] == [0, 1]
    assert [config.seed for config, _ in started] == [0] * 4 + [1] * 4
    assert len(results["commands"]) == 2


def test_checkpoints_of_finished_runs_are_deleted(arguments, monkeypatch, tmp_path):
    def make_run(config, workdir, signals, on_poll, labels):
        pathlib.Path(workdir, "checkpoints").mkdir(parents=True)
        return make_record(0.5)

    monkeypatch.setattr(readme, "write", lambda directory: [])
    monkeypatch.setattr(study, "run_in_process", make_run)
    main(arguments)
    assert len(list(tmp_path.glob("runs/*/seed0"))) == 4
    assert not list(tmp_path.glob("runs/*/seed0/checkpoints"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("finishes", [False, True])
def test_signal_stops_the_study(arguments, monkeypatch, tmp_path, capsys, number, finishes):
    def make_run(config, workdir, signals, on_poll, labels):
        signal.raise_signal(number)
        return make_record(0.5) if finishes else None

    monkeypatch.setattr(study, "run_in_process", make_run)
    assert main(arguments) == 128 + number
    assert "stopped in run 1; run the same command again" in capsys.readouterr().out
    assert len(read_results(tmp_path)["runs"]) == finishes


@pytest.mark.slow
def test_draw_writes_the_figures_only(arguments, started, monkeypatch, tmp_path):
    main(arguments)
    monkeypatch.undo()
    before = (tmp_path / "out" / "results.json").read_text()
    assert main(["--figures_only", f"--out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "width.png").exists()
    assert (tmp_path / "out" / "results.json").read_text() == before


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--only=speed"], "--only=speed: choose from mechanisms, momentum"),
        (["--seeds=0,-1"], "--seeds=-1: use integers of 0 or greater"),
        (["--config.epochs=3"], "--config.epochs is controlled by the study: use --epochs"),
        (["--config.seed=3"], "--config.seed is controlled by the study: use --seeds"),
        (["--figures_only"], "--config has no effect with --figures_only"),
        (["--only=mechanisms"], "--config.queue_size=100"),
        (["--config.data.source=folder:/nowhere"], "/nowhere"),
    ],
)
def test_mistakes_are_one_line(arguments, started, tmp_path, capsys, flags, message):
    assert main([*arguments, *flags]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not started
    assert not (tmp_path / "out").exists()


def test_other_config_leaves_the_results_alone(arguments, started, tmp_path, capsys):
    main(arguments)
    before = (tmp_path / "out" / "results.json").read_text()
    assert main([*arguments, "--epochs=3"]) == 2
    message = "holds a study with another config (epochs is 1 there and 3 here)"
    assert message in capsys.readouterr().err
    assert (tmp_path / "out" / "results.json").read_text() == before


@pytest.mark.nightly
def test_real_study_is_stopped_and_resumed(arguments, tmp_path):
    out, run_dir = tmp_path / "out", tmp_path / "runs" / "base" / "seed0"
    process = command.start("-m", "studies", *arguments)
    command.wait_for(lambda: command.logged_steps(run_dir) >= 1, process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGINT
    assert "stopped in run 2; run the same command again" in output
    results = read_results(tmp_path)
    [untrained] = results["runs"]
    # The wide encoder takes longest, so its runs are made up.
    made_up = [{"name": name, "seed": 0, "settings": {}, **make_record(0.5)} for name in NAMES[2:]]
    results["runs"] += made_up
    (out / "results.json").write_text(json.dumps(results))
    step = command.logged_steps(run_dir)

    output = command.run("-m", "studies", *arguments)
    assert "run 1/1: base" in output
    if step < STEPS:  # The signal stops the run after its step, which may have been the last.
        assert f"resuming from step {step} in" in (run_dir / "log.txt").read_text()
    results = read_results(tmp_path)
    assert results["runs"][:3] == [untrained, *made_up]
    base = results["runs"][3]
    assert results["seconds"] > base["seconds"] > 0
    check_record(base, untrained, run_dir)
    assert not (run_dir / "checkpoints").exists()
    planned = len(experiments.plan(results["config"], experiments.NAMES))
    text = " ".join((out / "README.md").read_text().split())
    assert f"{planned - 4} of {planned} runs are missing" in text


def check_record(base, untrained, run_dir):
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for key in ("loss", "contrastive_top1"):
        expected = [line[key] for line in lines if "loss" in line]  # Every step has a line.
        np.testing.assert_allclose(base["curves"][key], expected, atol=5.1e-5)
        assert base[f"final_{key}"] == pytest.approx(np.mean(expected), abs=5.1e-5)
    assert base["curves"]["step"] == list(range(1, STEPS + 1))
    assert base["chance"] == pytest.approx(np.log(101), abs=5e-5)
    monitor = [line["knn_top1"] for line in lines if "knn_top1" in line]
    assert base["knn_curve"]["step"] == [0, STEPS]
    np.testing.assert_allclose(base["knn_curve"]["top1"], monitor, atol=5.1e-5)
    # The monitor and the evaluation classify the same images by the same features.
    assert base["knn_top1"] == pytest.approx(monitor[-1])
    assert untrained["knn_top1"] == pytest.approx(monitor[0])
    assert "curves" not in untrained
    for record in (base, untrained):
        # The 3x3 convolutions, the 1x1 convolutions, the stem and BatchNormalization.
        squares = 9 * (2 + 2 + 4 + 8 + 16) + (2 + 8)
        norms = 2 * (1 + 2 + 3 * 2 + 3 * 4)
        assert record["parameters"] == (9 * 3 + norms) * 16 + squares * 16**2

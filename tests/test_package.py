"""The package as it is published: built, installed into a folder, and used away from the checkout.

`make package` does the same in an environment of its own, with what pip finds for it.
"""

import configparser
import email
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
import yaml

import moco_tf
from tests import in_process
from tests.command import ROOT, TINY
from tests.images import write_folder

COMMANDS = ("moco-demo", "moco-evaluate", "moco-export", "moco-train")
# What a checkout holds besides its files.
LEFT_OUT = (".*", "__pycache__", "*.egg-info", "api", "build", "dist", "runs")


def call(*command, cwd, status=0, **environment):
    """Runs a command to its end, which must be of that exit status; what it printed."""
    inherited = {
        key: value
        for key, value in os.environ.items()
        if key not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "TF_CPP_MIN_LOG_LEVEL")
    }
    result = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert result.returncode == status, result.stdout
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source, the wheel that was built from it, and what was said of that."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*LEFT_OUT))
    said = call(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist"),
        cwd=folder / "checkout",
    )
    [source], [wheel] = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return source, wheel, said


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """The wheel alone in a folder, and a function that runs one of its commands elsewhere."""
    folder = tmp_path_factory.mktemp("installed")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pip = (sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", folder)
    call(*pip, built[1], cwd=elsewhere)

    def run(command, *arguments, status=0):
        program = folder / "bin" / command if command.startswith("moco-") else command
        return call(program, *arguments, cwd=elsewhere, status=status, PYTHONPATH=str(folder))

    return folder, elsewhere, run


@pytest.fixture(scope="module")
def trained(installed, tmp_path_factory):
    """A run of two steps, by the wheel's command."""
    _, elsewhere, run = installed
    images = write_folder(tmp_path_factory.mktemp("images") / "photos", each=16)
    overrides = (
        "--config.steps=2",
        "--config.knn_every=0",
        f"--config.data.source=folder:{images}",
    )
    said = run("moco-train", *TINY, *overrides, "--workdir=run")
    return elsewhere / "run", said


def files(*folders):
    """Every file of the checkout in these folders, relative to it."""
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {str(p.relative_to(ROOT)) for p in found if "__pycache__" not in p.parts}


def project():
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]


def test_the_build_warns_of_nothing(built):
    assert "Successfully built" in built[2]
    assert not re.search(r"warn|deprecat", built[2], re.IGNORECASE), built[2]


def test_the_wheel_holds_the_package_and_its_scripts_and_nothing_else(built):
    scripts = {"train.py", "evaluate.py", "demo.py"} | files("configs", "export")
    wanted = files("moco_tf") | {f"moco_tf/scripts/{path}" for path in scripts}
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        for path in sorted(scripts):  # byte for byte those of the checkout
            assert wheel.read(f"moco_tf/scripts/{path}") == (ROOT / path).read_bytes()
    dist_info = f"moco_tf-{moco_tf.__version__}.dist-info"
    assert {name for name in names if not name.startswith(f"{dist_info}/")} == wanted
    assert {
        "moco_tf/report/page.css",
        "moco_tf/report/page.html",
        "moco_tf/report/page.js",
    } <= names
    assert f"{dist_info}/licenses/LICENSE" in names


def test_the_source_holds_what_a_checkout_does(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = files("moco_tf", "configs", "docs", "export", "tests", "benchmarks")
    wanted = {path for path in wanted if not path.startswith("docs/api/")}  # made by Sphinx
    wanted |= {"CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "README.md", "study.py"}
    assert wanted <= names, wanted - names


def test_metadata(built):
    with zipfile.ZipFile(built[1]) as wheel:
        folder = f"moco_tf-{moco_tf.__version__}.dist-info"
        metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
        entry_points = configparser.ConfigParser()
        entry_points.read_string(wheel.read(f"{folder}/entry_points.txt").decode())
    assert (metadata["Name"], metadata["Version"]) == ("moco-tf", moco_tf.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == project()["requires-python"]
    assert set(metadata.get_all("Provides-Extra")) == set(project()["optional-dependencies"])
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(needed) == len(project()["dependencies"])
    assert tuple(sorted(entry_points["console_scripts"])) == COMMANDS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload(decode=True).decode().strip() == readme.strip()


def test_only_the_package_comes_into_an_environment(installed):
    folder, _, run = installed
    dist_info = f"moco_tf-{moco_tf.__version__}.dist-info"
    assert {path.name for path in folder.iterdir()} == {"moco_tf", dist_info, "bin"}
    assert tuple(sorted(path.name for path in (folder / "bin").iterdir())) == COMMANDS
    program = "import moco_tf.scripts as s; print(s.__file__, s.FOLDER, sep='\\n')"
    for path in run(sys.executable, "-c", program).splitlines():
        assert pathlib.Path(path).is_relative_to(folder / "moco_tf")


def test_training_away_from_the_checkout(trained):
    workdir, said = trained
    assert said.splitlines()[-1].startswith("wrote run/checkpoints")
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]
    assert steps == [1, 2]


def test_the_report_away_from_the_checkout(trained, installed):
    said = installed[2]("moco-evaluate", "--protocol=report", "--workdir=run")
    assert said.splitlines()[-1].endswith("wrote run/report.html"), said
    page = (trained[0] / "report.html").read_text(encoding="utf-8")
    assert f"moco-tf {moco_tf.__version__}, of the checkpoint of step 2" in page
    for name in ("page.css", "page.js"):
        assert (ROOT / "moco_tf" / "report" / name).read_text(encoding="utf-8") in page


def test_export_away_from_the_checkout(trained, installed):
    said = installed[2]("moco-export", "saved_model", "--workdir=run", "--out=backbone")
    assert said.splitlines()[-1] == "wrote backbone"
    assert (installed[1] / "backbone" / "saved_model.pb").exists()


def test_help_is_the_scripts_own(installed):
    said = installed[2]("moco-train", "--help")
    in_checkout = in_process.run("train.py", "--help")
    assert "\n  --strategy: " in said and "    moco-train --config=configs/photos.py" in said
    ours = in_checkout.replace("python train.py", "moco-train").replace(
        f"\n{ROOT / 'train.py'}:", "\nmoco-train:"
    )
    assert said.split() == ours.split()


def test_formats_are_listed(installed):
    said = installed[2]("moco-export", "--help")
    for name in ("detectron2", "pytorch", "saved_model"):
        assert re.search(rf"^    {name} +[A-Z].*\.$", said, re.MULTILINE), said


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("moco-evaluate", ["--protocol is missing: see moco-evaluate --help"]),
        ("moco-export", ["moco-export needs a format", "saved_model"]),
        ("moco-export zip --workdir=x", ["'zip' is not a format", "pytorch, saved_model"]),
    ],
)
def test_mistakes_are_one_line(installed, command, words):
    line = installed[2](*command.split(), status=2)
    assert line.startswith("error: ") and line.count("\n") == 1
    assert all(word in line for word in words), line


def test_citation():
    with open(ROOT / "CITATION.cff", encoding="utf-8") as file:
        citation = yaml.safe_load(file)
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()  # what its schema requires
    assert str(citation["version"]) == moco_tf.__version__
    assert citation["license"] == project()["license"]
    papers = [citation["preferred-citation"], *citation["references"]]
    assert [paper["authors"][0]["family-names"] for paper in papers] == ["He", "Chen"]


def test_the_changelog_begins_with_what_is_not_yet_released():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [heading.split()[0] for heading in headings[1:]]
    assert moco_tf.__version__ not in released or released[0] == moco_tf.__version__


def test_the_version_of_an_installation_is_the_packages():
    assert importlib.metadata.version("moco-tf") == moco_tf.__version__

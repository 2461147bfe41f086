"""The package as it is published: built, installed into a folder, and used outside the checkout.

`make package` does the same in an environment of its own, with the dependencies that pip finds.
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
from packaging.specifiers import SpecifierSet

import moco_tf
from tests.command import ROOT, TINY
from tests.images import write_folder

COMMANDS = ("moco-demo", "moco-embed", "moco-evaluate", "moco-export", "moco-prepare", "moco-train")
# What a checkout contains besides its files.
IGNORED = (".*", "__pycache__", "*.egg-info", "api", "build", "dist", "runs")


def call(*command, cwd, status=0, **environment):
    """Run a command to its end with the expected status, and return what it printed."""
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


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return the source distribution, the wheel that was built from it, and the build's output."""
    folder = tmp_path_factory.mktemp("build")
    shutil.copytree(ROOT, folder / "checkout", ignore=shutil.ignore_patterns(*IGNORED))
    output = call(
        *(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist"),
        cwd=folder / "checkout",
    )
    [source], [wheel] = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    return source, wheel, output


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """Return the wheel's folder, an empty folder, and a function that runs a command in it."""
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
    """Return a run of two steps by the installed command, and its output."""
    _, elsewhere, run = installed
    images = write_folder(tmp_path_factory.mktemp("images") / "photos", images_per_class=16)
    overrides = (
        "--config.steps=2",
        "--config.knn_every=0",
        f"--config.data.source=folder:{images}",
    )
    output = run("moco-train", *TINY, *overrides, "--workdir=run")
    return elsewhere / "run", output


def files(*folders):
    """Return the paths of all files in these folders of the checkout, relative to it."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {str(p.relative_to(ROOT)) for p in paths if "__pycache__" not in p.parts}


def project():
    with open(ROOT / "pyproject.toml", "rb") as file:
        return tomllib.load(file)["project"]


def test_build_has_no_warnings(built):
    assert "Successfully built" in built[2]
    assert not re.search(r"warn|deprecat", built[2], re.IGNORECASE), built[2]


def test_wheel_contains_the_package_and_nothing_else(built):
    expected = files("moco_tf")
    # Beside the package in a checkout, and inside it once installed.
    beside = files("configs", "export")
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        for path in sorted(beside):
            assert wheel.read(f"moco_tf/{path}") == (ROOT / path).read_bytes()
    dist_info = f"moco_tf-{moco_tf.__version__}.dist-info"
    in_package = {name for name in names if not name.startswith(f"{dist_info}/")}
    assert in_package == expected | {f"moco_tf/{path}" for path in beside}
    assert {"moco_tf/py.typed", "moco_tf/report/page.css", "moco_tf/report/page.html"} <= names
    assert f"{dist_info}/licenses/LICENSE" in names


def test_source_distribution_contains_what_a_checkout_does(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    expected = files("moco_tf", "configs", "docs", "examples", "export", "tests", "benchmarks")
    expected |= files("studies")
    expected = {path for path in expected if not path.startswith("docs/api/")}  # Made by Sphinx.
    expected |= {"CHANGELOG.md", "CITATION.cff", "CONTRIBUTING.md", "LICENSE", "Makefile"}
    expected |= {"README.md", "train.py", "evaluate.py", "embed.py", "prepare.py"}
    assert expected <= names, expected - names


def test_metadata_is_complete(built):
    with zipfile.ZipFile(built[1]) as wheel:
        folder = f"moco_tf-{moco_tf.__version__}.dist-info"
        metadata = email.message_from_bytes(wheel.read(f"{folder}/METADATA"))
        entry_points = configparser.ConfigParser()
        entry_points.read_string(wheel.read(f"{folder}/entry_points.txt").decode())
    assert (metadata["Name"], metadata["Version"]) == ("moco-tf", moco_tf.__version__)
    assert metadata["License-Expression"] == "Apache-2.0"
    required = [metadata["Requires-Python"], project()["requires-python"]]
    assert SpecifierSet(required[0]) == SpecifierSet(required[1])
    assert set(metadata.get_all("Provides-Extra")) == set(project()["optional-dependencies"])
    needed = [line for line in metadata.get_all("Requires-Dist") if "extra ==" not in line]
    assert len(needed) == len(project()["dependencies"])
    assert tuple(sorted(entry_points["console_scripts"])) == COMMANDS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert metadata.get_payload(decode=True).decode().strip() == readme.strip()


def test_installation_adds_only_the_package(installed):
    folder, _, run = installed
    dist_info = f"moco_tf-{moco_tf.__version__}.dist-info"
    assert {path.name for path in folder.iterdir()} == {"moco_tf", dist_info, "bin"}
    assert tuple(sorted(path.name for path in (folder / "bin").iterdir())) == COMMANDS
    program = (
        "import moco_tf.configs, moco_tf.export as e; print(e.__file__, moco_tf.configs.__file__)"
    )
    for path in run(sys.executable, "-c", program).split():
        assert pathlib.Path(path).is_relative_to(folder / "moco_tf")


def test_training_outside_the_checkout(trained):
    workdir, output = trained
    assert output.splitlines()[-1].startswith("wrote checkpoints")
    steps = [json.loads(line)["step"] for line in (workdir / "metrics.jsonl").open()]
    assert steps == [1, 2]


@pytest.mark.nightly
def test_report_outside_the_checkout(trained, installed):
    output = installed[2]("moco-evaluate", "--protocol=report", "--workdir=run")
    assert output.splitlines()[-1].endswith(
        "wrote run/report.html, which you can open in a browser"
    )
    page = (trained[0] / "report.html").read_text(encoding="utf-8")
    assert f"moco-tf {moco_tf.__version__}" in page
    for name in ("page.css", "page.js"):
        assert (ROOT / "moco_tf" / "report" / name).read_text(encoding="utf-8") in page


@pytest.mark.nightly
def test_export_outside_the_checkout(trained, installed):
    output = installed[2]("moco-export", "saved_model", "--workdir=run", "--out=backbone")
    assert output.splitlines()[-1] == "wrote backbone"
    assert (installed[1] / "backbone" / "saved_model.pb").exists()


def test_help_names_the_commands(installed):
    output = installed[2]("moco-train", "--help")
    assert "    moco-train --config=configs/photos.py" in output
    assert "\n  --strategy\n" in output
    assert "python" not in output


def test_formats_are_listed(installed):
    output = installed[2]("moco-export", "--help")
    for name in ("detectron2", "keras", "keras_hub", "litert", "onnx", "pytorch", "saved_model"):
        assert re.search(rf"^    {name} +[A-Z].*\.$", output, re.MULTILINE), output


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("moco-evaluate", "--protocol is required"),
        ("moco-export", "a format is required"),
        ("moco-export zip --workdir=x", "unknown format 'zip'"),
    ],
)
def test_mistakes_are_one_line(installed, command, message):
    line = installed[2](*command.split(), status=2)
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    assert message in line


def test_citation_has_the_required_keys():
    with open(ROOT / "CITATION.cff", encoding="utf-8") as file:
        citation = yaml.safe_load(file)
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()  # Required by its schema.
    assert str(citation["version"]) == moco_tf.__version__
    assert citation["license"] == project()["license"]
    papers = [citation["preferred-citation"], *citation["references"]]
    assert [paper["authors"][0]["family-names"] for paper in papers] == ["He", "Chen"]


def test_changelog_starts_with_the_unreleased_changes():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [heading.split()[0] for heading in headings[1:]]
    assert moco_tf.__version__ not in released or released[0] == moco_tf.__version__


def test_installed_version_is_that_of_the_package():
    assert importlib.metadata.version("moco-tf") == moco_tf.__version__

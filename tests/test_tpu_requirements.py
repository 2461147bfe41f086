"""requirements/tpu, which takes the place of TensorFlow; `make tpu-check` installs it."""

import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]


def project(path):
    return tomllib.loads((ROOT / path / "pyproject.toml").read_text())["project"]


def requirements(path):
    """Return the version specifiers of a project's dependencies, by name."""
    parsed = map(Requirement, project(path)["dependencies"])
    return {requirement.name: requirement.specifier for requirement in parsed}


def test_tpu_build_meets_the_requirements_of_the_package():
    stand_in = project("requirements/tpu")
    assert stand_in["name"] == "tensorflow"
    assert stand_in["requires-python"] == project(".")["requires-python"]
    assert requirements(".")["tensorflow"].contains(stand_in["version"])


def test_tpu_build_and_its_library_are_pinned():
    pinned = requirements("requirements/tpu")
    assert str(pinned["tensorflow-tpu"]) == f"=={project('requirements/tpu')['version']}"
    # pip would choose the newest libtpu, with which TensorFlow cannot be imported.
    assert str(pinned["libtpu"]).startswith("==")

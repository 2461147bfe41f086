"""The README.md and the figures of a study."""

import json

import PIL.Image
import pytest

from moco_tf.config import flatten
from moco_tf.errors import UserError
from studies import experiments, readme
from tests.studies.made_up import base_config, make_results, paper_accuracy, paper_loss


def write_results(directory, results):
    (directory / "results.json").write_text(json.dumps(results))
    readme.write(str(directory))
    return (directory / "README.md").read_text()


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """The directory of a finished study."""
    directory = tmp_path_factory.mktemp("study")
    write_results(directory, make_results(paper_accuracy, paper_loss, noise=0.01))
    return directory


def test_readme_has_mean_and_standard_deviation_of_every_setting(directory):
    text = (directory / "README.md").read_text()
    base = 100 * paper_accuracy(flatten(base_config()))
    assert f"| 0.99 | {base:.1f} ± 1.0 | {base:.1f} ± 1.0 | 4.910 ± 0.010 | 57.8 |" in text
    assert f"against {base:.1f} ± 1.0: lower" in text
    assert "missing" not in text


def test_readme_has_the_scale_of_the_study(directory):
    text = " ".join((directory / "README.md").read_text().split())
    assert "K = 1,024 is 12.6 % of the images" in text
    assert "A run has 504 steps" in text
    assert "0.6, 60 and 95 %" in text  # 0.99, 0.999 and 0.9999 to the power of 504.
    assert "in 12 % of all cases" in text  # Student's t with 4 degrees of freedom, beyond 2.


def test_every_experiment_has_a_figure(directory):
    for name in experiments.NAMES:
        with PIL.Image.open(directory / f"{name}.png") as image:
            assert image.format == "PNG"
            assert min(image.size) > 300


def test_unfinished_study_is_reported_without_the_missing_runs(tmp_path):
    results = make_results(paper_accuracy, paper_loss, seeds=(0,))
    planned = len(results["runs"])
    finished = experiments.plan(results["config"], ["width"])
    results["runs"] = [run for run in results["runs"] if run["name"] in finished]
    text = write_results(tmp_path, results)
    assert f"{planned - 4} of {planned} runs are missing" in " ".join(text.split())
    assert "(width.png)" in text
    assert "(v2.png)" not in text
    assert not (tmp_path / "v2.png").exists()
    assert "| **too few seeds** |" in text
    # Runs of the experiment are also part of these.
    assert (tmp_path / "momentum.png").exists()
    assert (tmp_path / "epochs.png").exists()


def test_missing_or_invalid_results_are_reported(tmp_path):
    with pytest.raises(UserError, match="run the study first"):
        readme.write(str(tmp_path))
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match=f"{tmp_path}/results.json does not hold the results"):
        readme.write(str(tmp_path))

"""The examples in docstrings run and print what they show."""

import doctest
import importlib
import pkgutil
import re

import keras
import numpy as np
import pytest
import tensorflow as tf

import moco_tf
import moco_tf.configs
import moco_tf.export


def modules():
    for package in (moco_tf, moco_tf.configs, moco_tf.export):
        yield package
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(module.name)


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    tests = {}
    for module in modules():
        for test in finder.find(module, module.__name__):
            if test.examples:
                tests[test.name] = test
    return tests


EXAMPLES = examples()
# Those that train, or extract the features of thousands of images. The first two are enough for
# every change.
SLOW = ("moco_tf", "moco_tf.pretraining.train")
NIGHTLY = (
    "moco_tf.api.extract_features",
    "moco_tf.api.few_shot",
    "moco_tf.api.knn",
    "moco_tf.api.linear_probe",
    "moco_tf.embedding.embed.embed",
    "moco_tf.mechanisms.end_to_end.EndToEnd",
    "moco_tf.mechanisms.memory_bank.MemoryBank",
    "moco_tf.preparation.prepare.prepare",
    "moco_tf.pretraining.preview",
    "moco_tf.runs.Run",
    "moco_tf.training.run.train",
)
MARKS = {
    **dict.fromkeys(SLOW, pytest.mark.slow),
    **dict.fromkeys(NIGHTLY, pytest.mark.nightly),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=MARKS.get(name, ())) for name in EXAMPLES],
)
def test_example_prints_what_it_shows(name, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)  # Some write files.
    test = EXAMPLES[name]
    test.globs.update(moco_tf=moco_tf, keras=keras, np=np, tf=tf)
    # Where an example reads a run, there is one.
    reads = re.search(r"load_(run|backbone|encoder)\(", test.docstring)
    if reads and "runs/mine" in test.docstring:
        (tmp_path / "runs").mkdir()
        (tmp_path / "runs" / "mine").symlink_to(request.getfixturevalue("trained_run"))
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    output = []
    runner.run(test, out=output.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(output)


def test_every_public_function_and_class_has_an_example():
    missing = []
    for name in moco_tf.__all__:
        value = getattr(moco_tf, name)
        if callable(value) and ">>>" not in value.__doc__:
            missing.append(name)
    assert missing == ["UserError"]

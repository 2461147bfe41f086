"""Figures as objects, for tests of what a plot shows."""

import pytest

from moco_tf.plots import boxes, features, run


@pytest.fixture
def figures(monkeypatch):
    """A list to which every figure is appended that would be saved to a file otherwise."""
    figures = []

    def append(figure, path):
        figures.append(figure)
        return path

    for module in (boxes, features, run):
        monkeypatch.setattr(module, "save_figure", append)
    return figures

"""Fixtures of the tests of exports."""

import pytest

from tests.images import write_folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Return a folder of 40 images in two classes: five steps of 8 images per epoch. Read only."""
    return write_folder(tmp_path_factory.mktemp("images") / "photos", images_per_class=20, side=32)

"""Sheets of small pictures."""

import io

import numpy as np
import PIL.Image
import pytest

from moco_tf.data import sources
from moco_tf.plots.thumbnails import columns, jpeg, sheet, thumbnails
from tests.images import write_folder


def central_view_by_pillow(image, size):
    """The central view of a square PIL image, as torchvision makes it."""
    edge = int(round(size * 256 / 224))
    corner = round((edge - size) / 2)
    large = image.resize((edge, edge), PIL.Image.Resampling.BILINEAR)
    return large.crop((corner, corner, corner + size, corner + size))


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10])
def test_tiles_lie_on_a_sheet_row_by_row(count):
    tiles = np.random.default_rng(0).integers(0, 256, [count, 16, 16, 3], np.uint8)
    found = sheet(tiles)
    across = columns(count)
    assert found.shape[1] == 16 * across and found.shape[0] in (16 * across, 16 * (across - 1))
    for i, tile in enumerate(tiles):
        row, column = divmod(i, across)
        there = found[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        np.testing.assert_array_equal(there, tile)


def test_a_jpeg_file_keeps_tiles_apart():
    tiles = np.zeros([4, 32, 32, 3], np.uint8)
    tiles[0] = 255
    with PIL.Image.open(io.BytesIO(jpeg(sheet(tiles)))) as picture:
        assert picture.format == "JPEG"
        assert np.abs(np.asarray(picture).astype(int) - sheet(tiles)).max() < 3


@pytest.mark.parametrize(("image_size", "side"), [(24, 32), (32, 32), (48, 64), (128, 64)])
def test_thumbnails_are_the_central_views(tmp_path, image_size, side):
    folder = write_folder(tmp_path / "images", each=4, side=120)
    source = sources.load(f"folder:{folder}")
    indices = np.array([5, 0, 3])
    found = thumbnails(source, indices, image_size)
    assert found.shape == (3, side, side, 3) and found.dtype == np.uint8
    for index, tile in zip(indices, found, strict=True):
        with PIL.Image.open(source.describe(index)) as image:
            view = central_view_by_pillow(image, image_size)
        expected = view.resize((side, side), PIL.Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(expected).astype(int) - tile).mean() < 1.5

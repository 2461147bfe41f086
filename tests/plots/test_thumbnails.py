"""Thumbnails of images, and the sheets that they are arranged on."""

import io

import numpy as np
import PIL.Image
import pytest

from moco_tf.data import sources
from moco_tf.plots.thumbnails import columns, jpeg, sheet, thumbnails
from tests.images import write_folder


def central_view_by_pillow(image, size):
    """Return the central view of a square PIL image, as torchvision computes it."""
    edge = int(round(size * 256 / 224))
    corner = round((edge - size) / 2)
    resized = image.resize((edge, edge), PIL.Image.Resampling.BILINEAR)
    return resized.crop((corner, corner, corner + size, corner + size))


@pytest.mark.parametrize("count", [1, 2, 5, 9, 10])
def test_sheet_arranges_tiles_row_by_row(count):
    tiles = np.random.default_rng(0).integers(0, 256, [count, 16, 16, 3], np.uint8)
    result = sheet(tiles)
    num_columns = columns(count)
    assert result.shape[1] == 16 * num_columns
    assert result.shape[0] in (16 * num_columns, 16 * (num_columns - 1))
    for i, tile in enumerate(tiles):
        row, column = divmod(i, num_columns)
        part = result[16 * row : 16 * row + 16, 16 * column : 16 * column + 16]
        np.testing.assert_array_equal(part, tile)


def test_jpeg_file_keeps_tiles_apart():
    tiles = np.zeros([4, 32, 32, 3], np.uint8)
    tiles[0] = 255
    with PIL.Image.open(io.BytesIO(jpeg(sheet(tiles)))) as image:
        assert image.format == "JPEG"
        assert np.abs(np.asarray(image).astype(int) - sheet(tiles)).max() < 3


@pytest.mark.slow
@pytest.mark.parametrize(("image_size", "side"), [(24, 32), (32, 32), (48, 64), (128, 64)])
def test_thumbnails_show_the_central_views(tmp_path, image_size, side):
    folder = write_folder(tmp_path / "images", images_per_class=4, side=120)
    source = sources.load(f"folder:{folder}")
    indices = np.array([5, 0, 3])
    tiles = thumbnails(source, indices, image_size)
    assert tiles.shape == (3, side, side, 3)
    assert tiles.dtype == np.uint8
    for index, tile in zip(indices, tiles, strict=True):
        with PIL.Image.open(source.describe(index)) as image:
            view = central_view_by_pillow(image, image_size)
        expected = view.resize((side, side), PIL.Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(expected).astype(int) - tile).mean() < 1.5

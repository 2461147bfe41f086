"""Annotated images that cannot be read are left out and named, or are an error."""

import PIL.Image
import pytest

pytest.importorskip("pycocotools")

from moco_tf.data import boxes
from moco_tf.data.boxes import letterbox
from moco_tf.errors import UserError
from tests.data.boxes.coco_files import example, write_example


@pytest.fixture
def folder(tmp_path):
    """Three training images, of which one is damaged and one has another size."""
    write_example(tmp_path, example(), "{}")
    (tmp_path / "train2017" / "0.png").write_text("no image")
    PIL.Image.new("RGB", (31, 30)).save(tmp_path / "train2017" / "1.png")
    return tmp_path


def test_images_that_cannot_be_read_are_left_out_and_named(folder):
    images = boxes.readable_only(boxes.load(f"coco:{folder}"))
    assert images.train.tolist() == [2]
    assert images.test.tolist() == [3]
    assert images.unreadable_train == {
        number: f"{folder}/train2017/{number}.png" for number in (0, 1)
    }
    assert images.unreadable_test == {}
    batches = letterbox.TrainingBatches(images, 32, 2, 0, lambda *_: [], [])
    assert len(list(batches.until(3))) == 3


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "0.png cannot be read .*: repair it, .*, or set skip_invalid to leave out such"),
        (1, "1.png is 31 pixels wide .* or set skip_invalid to leave out such images"),
    ],
)
def test_without_that_they_are_an_error(folder, number, message):
    images = boxes.load(f"coco:{folder}")
    with pytest.raises(UserError, match=message):
        letterbox.require_readable(images, [number], None)


@pytest.mark.parametrize(("split", "part"), [("train2017", "train"), ("val2017", "test")])
def test_part_without_a_readable_image_is_refused(folder, split, part):
    for path in (folder / split).iterdir():
        path.write_text("no image")
    with pytest.raises(UserError, match=f"none of its . {part} images can be read: the first is"):
        boxes.readable_only(boxes.load(f"coco:{folder}"))

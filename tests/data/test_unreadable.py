"""The line and the file that name images that cannot be read."""

import pytest

from moco_tf.data import unreadable
from moco_tf.errors import UserError


def test_line_names_ten_images_and_the_file_all(tmp_path):
    names = [f"{number:02}.jpg" for number in range(12)]
    path = tmp_path / "eval" / "names.txt"
    unreadable.write(reversed(names), str(path))
    assert path.read_text().splitlines() == names
    line = unreadable.line(names, 20, str(path))
    assert line.startswith("skipped 12 of 20 images that cannot be read: 00.jpg, 01.jpg, ")
    assert line.endswith(f", 09.jpg and 2 more; listed in {path}")


def test_every_name_takes_one_line(tmp_path):
    names = ["a\nb.jpg", "ä.jpg", "\udcff.jpg", "c\r.jpg"]
    unreadable.write(names, str(tmp_path / "names.txt"))
    expected = ["\\xff.jpg", "a\\nb.jpg", "c\\r.jpg", "ä.jpg"]
    assert (tmp_path / "names.txt").read_text(encoding="utf-8").splitlines() == expected
    assert f": {', '.join(expected)};" in unreadable.line(names, 4, "names.txt")


def test_file_of_an_earlier_report_is_removed(tmp_path):
    path = tmp_path / "names.txt"
    unreadable.write(["a.jpg"], str(path))
    assert path.exists()
    unreadable.write([], str(path))
    assert not path.exists()
    unreadable.write([], str(path))


def test_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    path = str(tmp_path / "file" / "names.txt")
    with pytest.raises(UserError, match="names.txt cannot be written: "):
        unreadable.write(["a.jpg"], path)

"""What results and the terminal say about images that cannot be read."""

import numpy as np
import pytest

from moco_tf.evaluation import protocols, unreadable
from moco_tf.evaluation.features import Features


def features(unreadable_images, classes=()):
    labels = np.array([0, 1, 0, 1])
    values = np.float32([[1, 0], [0, 1], [1, 0.1], [0.1, 1]])
    return Features(values, np.arange(4), labels, 2, unreadable_images, list(classes))


def test_result_of_a_protocol_counts_and_names_them(tmp_path):
    train, test = features({9: "b.png"}), features({7: "d.png", 5: "c\n.png"}, ["cat"])
    result = protocols.evaluate("knn", train, test)
    expected = {
        "num_train": 4,
        "num_test": 4,
        "num_unreadable_train": 1,
        "num_unreadable_test": 2,
        "unreadable": ["b.png", "c\n.png", "d.png"],
        "unreadable_classes": ["cat"],
    }
    assert expected.items() <= result.items()
    names = tmp_path / "eval" / "knn_unreadable.txt"
    assert unreadable.report(str(tmp_path), result) == [
        f"skipped 3 of 11 images that cannot be read: b.png, c\\n.png, d.png; listed in {names}",
        "the result says nothing about the class 'cat': none of the test images can be read",
    ]
    assert names.read_text().splitlines() == ["b.png", "c\\n.png", "d.png"]


def test_nothing_is_said_if_all_can_be_read(tmp_path):
    damaged = protocols.evaluate("knn", features({9: "b.png"}), features({}))
    unreadable.report(str(tmp_path), damaged)
    assert list(tmp_path.rglob("*_unreadable.txt"))
    result = protocols.evaluate("knn", features({}), features({}))
    assert unreadable.report(str(tmp_path), result) == []
    assert not list(tmp_path.rglob("*_unreadable.txt"))


def test_count_includes_held_out_images(tmp_path):
    counts = {"protocol": "linear", "num_train": 4, "num_held_out": 2, "num_test": 3}
    lines = unreadable.report(str(tmp_path), counts | unreadable.entries({9: "b"}, {}))
    assert lines[0].startswith("skipped 1 of 10 images that cannot be read: b; ")


@pytest.mark.parametrize("key", ["curves", "rows"])
def test_results_of_a_comparison_are_of_the_same_images(tmp_path, key):
    part = {"num_train": 4, "num_test": 2, **unreadable.entries({9: "b"}, {7: "a"}, ["cat", "dog"])}
    # A result of an earlier version, which an interrupted comparison continues, has no entries.
    parts = [{"num_train": 4, "num_test": 2}, part, part]
    lines = unreadable.report(str(tmp_path), {"protocol": "x_comparison", key: parts})
    assert lines[0].startswith("skipped 2 of 8 images that cannot be read: a, b; listed in ")
    assert "about the classes 'cat', 'dog': none of" in lines[1]

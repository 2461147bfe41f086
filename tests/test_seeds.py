"""Keys of the random generators: the same as in version 0.1, and distinct for every purpose."""

import itertools
import random

import numpy as np
import pytest
import tensorflow as tf

import moco_tf
from moco_tf import seeds
from moco_tf.seeds import PURPOSES, key_for, seed_for


# Numbers of version 0.1 as literals, because a change would alter every run.
@pytest.mark.parametrize(
    ("seed", "expected"),
    [
        (0, [0, 1, 2, 3, 4, 5, 6]),
        (1, [7, 8, 9, 10, 11, 12, 13]),
        (3, [21, 22, 23, 24, 25, 26, 27]),
        (1000, [7000, 7001, 7002, 7003, 7004, 7005, 7006]),
    ],
)
def test_keys_are_those_of_version_0_1(seed, expected):
    purposes = "order", "views", "substitute", "query_view", "key_view", "permutation", "queue"
    assert [key_for(purpose, seed, 4) for purpose in purposes] == [[key, 4] for key in expected]


def test_ids_are_unique():
    assert len(set(PURPOSES.values())) == len(PURPOSES)


def test_new_purpose_changes_no_key_and_collides_with_none(monkeypatch):
    some_seeds = [0, 1, 2, 3, 6, 7, 41, 1000, 2**31, 2**40 // 7, 2**40 // 7 + 1, 2**40 - 1]
    # Purposes that were added later must keep their keys as well.
    new_id = max(PURPOSES.values()) + 1
    pairs = list(itertools.product(PURPOSES, some_seeds))
    before = [key_for(purpose, seed, 0)[0] for purpose, seed in pairs]
    added = {"first addition": new_id, "second addition": new_id + 1}
    monkeypatch.setattr(seeds, "PURPOSES", {**PURPOSES, **added})
    assert [key_for(purpose, seed, 0)[0] for purpose, seed in pairs] == before
    new = [key_for(purpose, seed, 0)[0] for purpose in added for seed in some_seeds]
    assert len({*before, *new}) == len(before) + len(new)


def test_unknown_purpose_is_refused():
    with pytest.raises(KeyError, match="no purpose"):
        key_for("no purpose", 0, 0)


@pytest.mark.parametrize("in_graph", [False, True])
def test_seed_holds_the_key_in_int64(monkeypatch, in_graph):
    monkeypatch.setattr(seeds, "PURPOSES", {**PURPOSES, "new": 9})

    def make_seeds(position):
        return [seed_for(purpose, 3, position) for purpose in ("queue", "new")]

    make = tf.function(make_seeds) if in_graph else make_seeds
    old, new = make(tf.constant(5))
    assert old.dtype == new.dtype == tf.int64
    assert old.numpy().tolist() == [27, 5]
    assert new.numpy().tolist() == [9 * 2**40 + 3, 5]


def test_random_numbers_of_the_caller_are_not_reset(trained_run, tmp_path):
    def numbers_after_each_call(seed):
        random.seed(seed)
        np.random.seed(seed)
        numbers = []
        for call in (build, load, train):
            call()
            # Keras draws from Python's generator whenever it makes a layer.
            numbers += [random.random(), np.random.rand()]
        return numbers

    backbones = []

    def build():
        backbones.append(moco_tf.encoders.random_backbone("resnet8", stem="small", seed=1))

    def load():
        moco_tf.load_backbone(str(trained_run))

    def train():
        images = np.zeros((8, 32, 32, 3), np.uint8)
        settings = dict(queue_size=32, batch_size=4, bn_groups=2, steps=1, knn_every=0)
        moco_tf.train(images, tmp_path / f"run {len(backbones)}", "photos", **settings)

    first, second = numbers_after_each_call(3), numbers_after_each_call(4)
    assert len({*first, *second}) == 12
    np.random.seed(3)
    assert [first[i] for i in (1, 3, 5)] == [np.random.rand() for _ in range(3)]
    for weight, other in zip(*(backbone.get_weights() for backbone in backbones), strict=True):
        np.testing.assert_array_equal(weight, other)

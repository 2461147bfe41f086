"""Few-shot draws and their statistics."""

import statistics

import numpy as np
import pytest
import scipy.stats

from moco_tf.errors import UserError
from moco_tf.evaluation import few_shot, logistic

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [12, 30, 7]))


def example(noise):
    generator = np.random.default_rng(1)
    parts = []
    for size in (60, 90):
        labels = np.arange(size) % 3
        features = 5 * np.eye(3, 4)[labels] + noise * generator.normal(size=(size, 4))
        parts += [features.astype(np.float32), labels]
    return parts


@pytest.mark.parametrize("shots", [1, 3, 7])
def test_a_draw_has_as_many_different_images_of_each_class(shots):
    chosen = few_shot.draw(LABELS, shots, seed=0, number=0)
    assert len(set(chosen)) == 3 * shots
    assert np.bincount(LABELS[chosen]).tolist() == [shots] * 3


def test_draws_are_functions_of_seed_and_number():
    def drawn(seed, number, labels=LABELS):
        return few_shot.draw(labels, 3, seed, number).tolist()

    assert drawn(0, 0) == drawn(0, 0)
    assert len({tuple(drawn(seed, number)) for seed in range(5) for number in range(5)}) == 25
    # More images of one class do not change what is drawn of another.
    more = np.append(LABELS, [2] * 9)
    assert drawn(0, 0, more)[:6] == drawn(0, 0)[:6]


def test_more_shots_go_on_where_fewer_ended():
    one, five = (few_shot.draw(LABELS, n, 3, 4).reshape(3, n) for n in (1, 5))
    np.testing.assert_array_equal(five[:, :1], one)


def test_every_image_is_drawn_as_often():
    drawn = np.concatenate([few_shot.draw(LABELS, 2, 0, number) for number in range(2000)])
    for label in range(3):
        counts = np.bincount(drawn[LABELS[drawn] == label], minlength=len(LABELS))
        assert scipy.stats.chisquare(counts[label == LABELS]).pvalue > 0.001


def test_the_result_is_that_of_the_probe_on_each_draw():
    train, labels, test, test_labels = example(noise=3.0)
    [one, five] = few_shot.classify(
        train, labels, test, test_labels, 3, shots=(1, 5), draws=4, seed=2, l2=0.1, iterations=50
    )["few_shot"]
    assert (one["shots"], five["shots"]) == (1, 5)
    for row in (one, five):
        expected = []
        for number in range(4):
            chosen = few_shot.draw(labels, row["shots"], 2, number)
            found = logistic.probe(train[chosen], labels[chosen], test, test_labels, 3, 0.1, 50)
            expected.append(found["top1"])
        assert row["top1_of_draws"] == expected and len(set(expected)) > 1
        assert row["top1"] == pytest.approx(statistics.mean(expected))
        assert row["top1_std"] == pytest.approx(statistics.stdev(expected))
        assert row["top5"] == 1.0
    assert 0.3 < one["top1"] < five["top1"] < 1


def test_separable_classes_need_one_image_each():
    train, labels, test, test_labels = example(noise=0.1)
    train, test = train[:, :3], test[:, :3]  # the fourth column is noise alone
    [row] = few_shot.classify(train, labels, test, test_labels, 3, shots=(1,))["few_shot"]
    assert row["top1_of_draws"] == [1.0] * 10 and row["top1_std"] == 0


@pytest.mark.parametrize("option, value", [("l2", 30.0), ("iterations", 1), ("seed", 1)])
def test_every_setting_matters(option, value):
    [usual], [changed] = (
        few_shot.classify(*example(noise=4.0), 3, shots=(10,), draws=3, **settings)["few_shot"]
        for settings in ({}, {option: value})
    )
    assert usual["top1_of_draws"] != changed["top1_of_draws"]


def test_a_class_with_too_few_images_is_named():
    names = ["cat", "dog", "emu"]
    few_shot.require_enough(LABELS, names, [1, 7])
    words = "--shots=1,8: class 'emu' has 7 training images"
    with pytest.raises(UserError, match=words):
        few_shot.require_enough(LABELS, names, [1, 8])
    # An image that cannot be read counts for none.
    with pytest.raises(UserError, match="--shots=7: class 'emu' has 6 "):
        few_shot.require_enough(np.where(np.arange(49) == LABELS.argmax(), -1, LABELS), names, [7])
    with pytest.raises(UserError, match="--shots=1: class 'fox' has 0 "):
        few_shot.require_enough(LABELS, [*names, "fox"], [1])
    with pytest.raises(UserError, match="--shots=8: class '2' has 7 "):
        few_shot.classify(np.zeros([49, 2]), LABELS, None, None, 3, shots=(8,))

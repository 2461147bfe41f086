"""Few-shot draws and their statistics."""

import dataclasses
import statistics

import numpy as np
import pytest
import scipy.stats

from moco_tf.errors import UserError
from moco_tf.evaluation import few_shot, logistic
from moco_tf.evaluation.bootstrap import mean_interval
from moco_tf.evaluation.settings import FewShotSettings, ProbeSettings
from tests.evaluation.helpers import as_features

LABELS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [12, 30, 7]))


def example(noise, dim=4):
    """Return training and test features of three classes; the fourth column is only noise."""
    generator = np.random.default_rng(1)
    parts = []
    for size in (60, 90):
        labels = np.arange(size) % 3
        features = 5 * np.eye(3, 4)[labels] + noise * generator.normal(size=(size, 4))
        parts.append(as_features(features[:, :dim].astype(np.float32), labels, 3))
    return parts


@pytest.mark.parametrize("shots", [1, 3, 7])
def test_draw_has_same_number_of_distinct_images_per_class(shots):
    chosen = few_shot.draw(LABELS, shots, seed=0, number=0)
    assert len(set(chosen)) == 3 * shots
    assert np.bincount(LABELS[chosen]).tolist() == [shots] * 3


def test_draw_is_function_of_seed_and_number():
    def draw(seed, number, labels=LABELS):
        return few_shot.draw(labels, 3, seed, number).tolist()

    assert draw(0, 0) == draw(0, 0)
    assert len({tuple(draw(seed, number)) for seed in range(5) for number in range(5)}) == 25
    # More images of one class do not change what is drawn from the others.
    assert draw(0, 0, np.append(LABELS, [2] * 9))[:6] == draw(0, 0)[:6]


def test_draw_of_fewer_shots_is_prefix():
    one, five = (few_shot.draw(LABELS, shots, 3, 4).reshape(3, shots) for shots in (1, 5))
    np.testing.assert_array_equal(five[:, :1], one)


def test_every_image_is_drawn_equally_often():
    drawn = np.concatenate([few_shot.draw(LABELS, 2, 0, number) for number in range(2000)])
    for label in range(3):
        counts = np.bincount(drawn[LABELS[drawn] == label], minlength=len(LABELS))
        assert scipy.stats.chisquare(counts[label == LABELS]).pvalue > 0.001


def test_result_equals_probe_on_each_draw():
    train, test = example(noise=3.0)
    settings = FewShotSettings(shots=(1, 5), draws=4, seed=2, l2=0.1, iterations=50)
    rows = few_shot.classify(train, test, settings)["few_shot"]
    assert [row["shots"] for row in rows] == [1, 5]
    for row in rows:
        expected, hits = [], []
        for number in range(4):
            chosen = few_shot.draw(train.labels, row["shots"], 2, number)
            few = as_features(train.features[chosen], train.labels[chosen], 3)
            expected.append(logistic.probe(few, test, ProbeSettings(0.1, 50))["top1"])
            scores = logistic.scores(few, test, ProbeSettings(0.1, 50))
            hits.append(scores.argmax(axis=1) == test.labels)
        assert row["top1_of_draws"] == expected
        assert len(set(expected)) > 1
        assert row["top1"] == pytest.approx(statistics.mean(expected))
        assert row["top1_std"] == pytest.approx(statistics.stdev(expected))
        assert row["top5"] == 1.0
        assert row["top1_interval"] == mean_interval(np.mean(hits, axis=0))
        for label, of_class in enumerate(row["per_class"]):
            assert of_class["class"] == str(label)
            members = np.stack(hits)[:, test.labels == label]
            assert of_class["top1"] == pytest.approx(members.mean())
    assert 0.3 < rows[0]["top1"] < rows[1]["top1"] < 1


def test_separable_classes_need_one_image_each():
    [row] = few_shot.classify(*example(noise=0.1, dim=3), FewShotSettings(shots=(1,)))["few_shot"]
    assert row["top1_of_draws"] == [1.0] * 10
    assert row["top1_std"] == 0


@pytest.mark.parametrize(("name", "value"), [("l2", 30.0), ("iterations", 1), ("seed", 1)])
def test_every_setting_has_effect(name, value):
    defaults = FewShotSettings(shots=(10,), draws=3)
    results = [
        few_shot.classify(*example(noise=4.0), settings)["few_shot"][0]["top1_of_draws"]
        for settings in (defaults, dataclasses.replace(defaults, **{name: value}))
    ]
    assert results[0] != results[1]


def test_class_with_too_few_images_is_named():
    names = ["cat", "dog", "emu"]
    few_shot.require_enough(LABELS, names, (1, 7))
    with pytest.raises(UserError, match="^shots=1,8: class 'emu' has only 7 training images"):
        few_shot.require_enough(LABELS, names, (1, 8))
    with pytest.raises(UserError, match="^shots=1: class 'fox' has only 0 "):
        few_shot.require_enough(LABELS, [*names, "fox"], (1,))
    with pytest.raises(UserError, match="has only 1 training image: leave out the larger numbers"):
        few_shot.require_enough(np.array([0, 0, 1]), names[:2], (2,))
    # An image that cannot be read does not count.
    labels = np.where(np.arange(49) == np.argmax(LABELS == 2), -1, LABELS)
    with pytest.raises(UserError, match="^shots=7: class 'emu' has only 6 "):
        few_shot.require_enough(labels, names, (7,))
    train = as_features(np.zeros([49, 2], np.float32), LABELS, 3)
    with pytest.raises(UserError, match="^shots=8: class '2' has only 7 "):
        few_shot.classify(train, train, FewShotSettings(shots=(8,)))


def test_features_with_too_few_images_of_a_class_name_the_class():
    train, test = example(noise=0.1)
    train = dataclasses.replace(train, class_names=["cat", "dog", "emu"])
    with pytest.raises(UserError, match="^shots=21: class 'cat' has only 20 training images"):
        few_shot.classify(train, test, FewShotSettings(shots=(21,)))

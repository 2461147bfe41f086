"""The facts about a run that its report and its model cards state."""

import pytest

from moco_tf.config import default_config
from moco_tf.run_summary import NOT_IN_PAPER, differing_settings, summarize


@pytest.fixture
def config():
    config = default_config()
    config.data.source = "folder:photos"
    config.queue_size = 4096
    return config


@pytest.mark.parametrize(
    ("mechanism", "queue_size", "fragments"),
    [
        ("moco", 4096, ["queue of 4,096 keys", "m = 0.999"]),
        ("memory_bank", 4096, ["memory bank of 25,600 keys", "4,096"]),
        ("end_to_end", 0, ["batch of 256 keys"]),
    ],
)
def test_dictionary_is_described_for_each_mechanism(config, mechanism, queue_size, fragments):
    config.mechanism, config.queue_size = mechanism, queue_size
    description = summarize(config, 25_600, "folder:photos", 3, [])["Dictionary"]
    for fragment in fragments:
        assert fragment in description


def test_channels_are_stated_when_the_images_are_not_rgb(config):
    facts = {c: summarize(config, 25_600, "folder:photos", c, []) for c in (3, 5)}
    assert "channels" not in facts[3]["Images"]
    assert "5 channels" in facts[5]["Images"]


def test_weights_of_several_sources_are_stated(config):
    assert "weights" not in summarize(config, 25_600, "folder:photos", 3, [])["Images"]
    config.data.weights = (1, 2.5)
    images = summarize(config, 25_600, "folder:a;folder:b", 3, [])["Images"]
    assert images == "25,600 of folder:a;folder:b, with the weights 1, 2.5, views of 224 px"


@pytest.mark.parametrize(
    ("rate", "expected"), [(256.0, "50 s"), (64.0, "3 min 20 s"), (1.0, "3 h 33 min")]
)
def test_time_is_computed_from_the_rates_in_the_metrics(config, rate, expected):
    lines = [{"step": step, "images_per_second": rate} for step in (10, 30, 50)]
    lines.insert(1, {"step": 20, "knn_top1": 0.5})
    facts = summarize(config, 25_600, "folder:photos", 3, lines)
    assert facts["Time in training steps"] == expected
    assert "Time in training steps" not in summarize(config, 25_600, "folder:photos", 3, [])


def test_length_is_stated_as_it_was_set(config):
    config.epochs = 32
    facts = summarize(config, 25_600, "folder:photos", 3, [])
    assert facts["Length"] == "32 epochs of 100 steps"
    assert differing_settings(config)["epochs"] == (32, 200)
    config.steps = 150
    facts = summarize(config, 25_600, "folder:photos", 3, [])
    assert facts["Length"] == "150 steps (1.5 epochs of 100 steps)"
    assert "epochs" not in differing_settings(config)


def test_settings_without_effect_do_not_differ_from_those_of_the_paper(config):
    config.update(mechanism="end_to_end", queue_size=0, momentum=0.5, schedule="cosine")
    config.update(milestones=(60, 80), bank_momentum=0.9)
    assert differing_settings(config) == {
        "mechanism": ("end_to_end", "moco"),
        "queue_size": (0, 65536),
        "schedule": ("cosine", "step"),
    }


def test_differing_settings_are_those_of_the_paper_alone(config):
    assert differing_settings(config) == {"queue_size": (4096, 65536)}
    config.seed, config.steps, config.knn_every, config.temperature = 5, 7, 1, 0.2
    assert {"seed", "steps", "knn_every"} <= set(NOT_IN_PAPER)
    assert differing_settings(config) == {
        "queue_size": (4096, 65536),
        "temperature": (0.2, 0.07),
    }


def test_augmentation_is_stated_with_its_changes(config):
    config.augmentation = "v2"
    assert summarize(config, 25_600, "folder:photos", 3, [])["Augmentation"] == "v2"
    config.augment.hue, config.augment.crop_scale = 0.2, (0.5, 1.0)
    facts = summarize(config, 25_600, "folder:photos", 3, [])
    assert facts["Augmentation"] == "v2 with crop_scale 0.5 to 1, hue 0.2"


def test_differing_settings_have_the_numbers_of_the_augmentation(config):
    config.augmentation, config.queue_size = "v2", 65536
    v2 = {
        "augmentation": ("v2", "v1"),
        "augment.hue": (0.1, 0.4),
        "augment.jitter_probability": (0.8, 1.0),
        "augment.blur_probability": (0.5, 0.0),
    }
    assert differing_settings(config) == v2
    config.augment.update(hue=0.4, vertical_flip=0.5, crop_scale=(0.2, 1.0))
    del v2["augment.hue"]  # The paper's number again.
    assert differing_settings(config) == {**v2, "augment.vertical_flip": (0.5, 0.0)}

"""Ranges, defaults and derived values of the settings classes."""

import dataclasses
import math

import numpy as np
import pytest

from moco_tf.errors import UserError
from moco_tf.evaluation.settings import (
    SETTINGS,
    AnomalySettings,
    DetectionSettings,
    FewShotSettings,
    FinetuneSettings,
    KNNSettings,
    LinearSettings,
    ProbeSettings,
    SegmentationSettings,
)

CLASSES = sorted(set(SETTINGS.values()), key=lambda settings: settings.__name__)
FIELDS = [
    pytest.param(settings, field, id=f"{settings.__name__}.{field.name}")
    for settings in CLASSES
    for field in dataclasses.fields(settings)
]


def limits_of(field):
    """Return pairs of a value and whether it is in the range of a field."""
    limits = field.metadata["range"]
    step = 1 if isinstance(field.default, int) or field.metadata["item"] is int else 1e-6
    values = []
    if limits.minimum is not None:
        values += [(limits.minimum, True), (limits.minimum - step, False)]
    if limits.above is not None:
        values += [(limits.above + step, True), (limits.above, False)]
    if limits.maximum is not None:
        values += [(limits.maximum, True), (limits.maximum + step, False)]
    if limits.choices:
        values += [*((choice, True) for choice in limits.choices), ("other", False)]
    return values


@pytest.mark.parametrize(("settings", "field"), FIELDS)
def test_range_ends_at_its_limits(settings, field):
    for value, valid in limits_of(field):
        # Every item of a tuple has to be in the range.
        value = (value,) * max(len(field.default), 1) if field.metadata["item"] else value
        if valid:
            # The default milestones of the linear protocol do not fit one epoch.
            others = (
                {"milestones": ()} if field.name == "epochs" and settings is LinearSettings else {}
            )
            assert getattr(settings(**{field.name: value}, **others), field.name) == value
        else:
            with pytest.raises(UserError, match=rf"^{field.name}=\S+: "):
                settings(**{field.name: value})


@pytest.mark.parametrize(("settings", "field"), FIELDS)
def test_every_setting_has_help_and_a_range(settings, field):
    assert field.metadata["help"].endswith(".")
    # Milestones are checked against the length of the training, and the normal class against those
    # of the images.
    assert limits_of(field) or field.name in ("milestones", "normal")


@pytest.mark.parametrize(
    ("settings", "values", "message"),
    [
        (KNNSettings, dict(k=0), "k=0: must be 1 or greater"),
        (KNNSettings, dict(k=2.5), "k=2.5: must be an integer, 1 or greater"),
        (KNNSettings, dict(k=(5, 20)), "k=(5, 20): must be an integer, 1 or greater"),
        (
            KNNSettings,
            dict(ks=(5, 2.5)),
            "ks=5,2.5: must be integers separated by commas, 1 or greater",
        ),
        (KNNSettings, dict(temperature=0.0), "temperature=0.0: must be greater than 0"),
        (
            FinetuneSettings,
            dict(label_fraction=1.5),
            "label_fraction=1.5: must be greater than 0 and at most 1",
        ),
        (FinetuneSettings, dict(layers="last"), "layers=last: choose head or all"),
        (FewShotSettings, dict(shots=(5, 0)), "shots=5,0: must be 1 or greater"),
    ],
)
def test_message_names_value_and_range(settings, values, message):
    with pytest.raises(UserError) as error:
        settings(**values)
    assert str(error.value) == message


@pytest.mark.parametrize("settings", [LinearSettings, DetectionSettings])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_are_finite(settings, value):
    with pytest.raises(UserError, match=f"^learning_rate={value}: must be a finite number"):
        settings(learning_rate=value)


def test_shots_are_required():
    with pytest.raises(UserError, match="^shots=: give at least one number"):
        FewShotSettings(shots=())


@pytest.mark.parametrize("crop_scale", [(0.5, 0.2), (0.5,), (0.1, 0.2, 0.3), ()])
@pytest.mark.parametrize("settings", [LinearSettings, FinetuneSettings])
def test_crop_scale_is_a_smallest_and_a_largest_fraction(settings, crop_scale):
    with pytest.raises(UserError, match="^crop_scale=.*give the smallest and the largest fraction"):
        settings(crop_scale=crop_scale)
    assert settings(crop_scale=(0.3, 0.3)).crop_scale == (0.3, 0.3)


@pytest.mark.parametrize(
    ("settings", "length"),
    [(LinearSettings, "epochs"), (DetectionSettings, "steps"), (SegmentationSettings, "steps")],
)
def test_milestones_are_within_the_training(settings, length):
    assert settings(**{length: 9}, milestones=(1, 8)).milestones == (1, 8)
    assert settings(**{length: 9}, milestones=()).milestones == ()
    for milestones, outside in (((3, 9), 9), ((0, 3), 0), ((-1,), -1)):
        unit = length.removesuffix("s")
        message = f"^milestones=.*: {unit} {outside} is not between 0 and {length}=9; choose others"
        with pytest.raises(UserError, match=message):
            settings(**{length: 9}, milestones=milestones)


def test_default_milestones_are_shares_of_the_steps():
    assert DetectionSettings(steps=9000).milestones == (6750, 8250)
    assert SegmentationSettings(steps=100).milestones == (70, 90)
    assert DetectionSettings(steps=1).milestones == ()


def test_settings_of_the_backbone_are_unused_for_the_head_alone():
    backbone_settings = {"batch_norm", "learning_rate"}
    tuned = FinetuneSettings().used()
    assert {**tuned, "evaluate_every": 1} == dataclasses.asdict(FinetuneSettings())
    assert tuned.keys() - FinetuneSettings(layers="head").used().keys() == backbone_settings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # InstDisc, Wu et al. (2018).
        (KNNSettings, dict(k=200, temperature=0.07)),
        (ProbeSettings, dict(l2=1e-3, iterations=200)),
        (FewShotSettings, dict(shots=(1, 5, 10), draws=10, l2=1e-3, iterations=200)),
        # Section 4.1, and the reference implementation's main_lincls.py.
        (
            LinearSettings,
            dict(
                learning_rate=30.0,
                epochs=100,
                milestones=(60, 80),
                batch_size=256,
                sgd_momentum=0.9,
                weight_decay=0.0,
                crop_scale=(0.08, 1.0),
            ),
        ),
        # facebookresearch/swav's eval_semisup.py for 10 % of the labels.
        (
            FinetuneSettings,
            dict(
                learning_rate=0.01,
                head_learning_rate=0.2,
                epochs=20,
                batch_size=256,
                sgd_momentum=0.9,
                weight_decay=0.0,
                crop_scale=(0.08, 1.0),
                layers="all",
                batch_norm="tuned",
                label_fraction=1.0,
            ),
        ),
        # Section 4.2 and the appendix, for PASCAL VOC.
        (
            DetectionSettings,
            dict(
                learning_rate=0.01,
                steps=24000,
                milestones=(18000, 22000),
                warmup_steps=100,
                batch_size=16,
                sgd_momentum=0.9,
                weight_decay=1e-4,
                trials=1,
            ),
        ),
        (
            SegmentationSettings,
            dict(learning_rate=0.003, steps=30000, milestones=(21000, 27000)),
        ),
    ],
)
def test_defaults_are_those_of_the_papers(settings, expected):
    assert expected.items() <= dataclasses.asdict(settings()).items()


def test_numbers_of_numpy_are_those_of_python():
    settings = LinearSettings(epochs=np.int64(9), milestones=[np.int64(3), np.int64(6)])
    assert settings == LinearSettings(epochs=9, milestones=(3, 6))
    assert [type(number) for number in (settings.epochs, *settings.milestones)] == [int] * 3


def test_numbers_of_other_types_are_floats_and_tuples():
    """Keras takes no integer as a learning rate."""
    settings = FinetuneSettings(
        learning_rate=1, head_learning_rate=np.float32(2), crop_scale=np.array([1, 1])
    )
    rates = (settings.learning_rate, settings.head_learning_rate, *settings.crop_scale)
    assert rates == (1, 2, 1, 1)
    assert {type(rate) for rate in rates} == {float}
    assert FewShotSettings(shots=np.array([1, 2])).shots == (1, 2)


@pytest.mark.parametrize("value", [0.5, "0.1,1", None, {0.1, 1.0}])
def test_one_value_in_place_of_a_tuple_is_refused(value):
    message = r"^crop_scale=.*: give a tuple of numbers, such as \(0.08, 1.0\)$"
    with pytest.raises(UserError, match=message):
        FinetuneSettings(crop_scale=value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: FinetuneSettings(learning_rate=10**400), "learning_rate=1000.*: must be at most"),
        (lambda: FinetuneSettings(learning_rate=-(10**400)), "learning_rate=.*: must be greater"),
        (lambda: FinetuneSettings(layers=np.array(["all"])), "layers=.*: choose head or all"),
        (lambda: AnomalySettings(normal=["a"]), r"^normal=\['a'\]: must be a text$"),
        (lambda: AnomalySettings(normal=5), "^normal=5: must be a text$"),
    ],
)
def test_values_of_another_kind_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        settings()

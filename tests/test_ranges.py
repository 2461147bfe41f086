"""Ranges of settings: limits, wording and tuples."""

import math

import numpy as np
import pytest

from moco_tf.errors import UserError
from moco_tf.ranges import Range, checked, checked_bool


@pytest.mark.parametrize(
    ("valid", "text"),
    [
        (Range(minimum=0), "0 or greater"),
        (Range(above=0), "greater than 0"),
        (Range(minimum=0, maximum=1), "between 0 and 1"),
        (Range(above=0, maximum=1), "greater than 0 and at most 1"),
        (Range(maximum=0.5), "at most 0.5"),
        (Range(choices=("a", "b")), "a or b"),
        (Range(choices=("a", "b", "c")), "a, b or c"),
        (Range(), ""),
        (Range(above=0, is_pair=True), "two numbers greater than 0, the smaller one first"),
    ],
)
def test_text_states_the_limits(valid, text):
    assert str(valid) == text


@pytest.mark.parametrize(
    ("valid", "inside", "outside"),
    [
        (Range(minimum=1), [1, 2.5, (1, 7)], [0, -1, (3, 0)]),
        (Range(above=0), [1e-9, (0.1, 3)], [0, (0.1, 0)]),
        (Range(minimum=0, maximum=1), [0, 1, [0.5]], [-0.1, 1.1, [0.5, 2]]),
        (Range(minimum=1, is_whole=True), [1, (1, 7)], [0, 1.5, (3, 4.0), "1", None]),
        (Range(choices=("a", "b")), ["a", "b"], ["c", "", None]),
        (
            Range(above=0, maximum=1, is_pair=True),
            [(0.2, 1), [0.5, 0.5]],
            [0.5, (0.5,), (0, 1), (0.2, 1.1), (0.5, 0.2), (0.1, 0.2, 0.3), (0.1, "1"), None],
        ),
    ],
)
def test_values_outside_are_errors(valid, inside, outside):
    assert [valid.error(value) for value in inside] == [None] * len(inside)
    for value in outside:
        assert str(valid) in valid.error(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, (1.0, math.nan)])
def test_numbers_are_finite(value):
    assert Range(above=0).error(value) == "must be a finite number, greater than 0"
    assert Range().error(value) == "must be a finite number"


def test_integers_fit_the_counters_of_all_libraries():
    assert Range(minimum=1).error(2**31 - 1) is None
    for valid in (Range(minimum=1), Range()):
        assert valid.error(2**31) == "must be at most 2147483647"


def test_other_types_are_errors_where_there_are_limits():
    assert Range(minimum=1).error("60") == "must be a number, 1 or greater"
    assert Range(minimum=1).error(("60,x",)) == "must be numbers separated by commas, 1 or greater"
    assert Range().error("text") is None
    assert Range().error(False) is None


@pytest.mark.parametrize("value", [16, np.int64(16), np.uint8(16)])
def test_integers_of_numpy_are_integers(value):
    number = checked("image_size", value, Range(minimum=1, is_whole=True))
    assert number == 16
    assert type(number) is int
    assert type(checked("temperature", np.float32(0.5), Range(above=0))) is float


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        *((16.0, "16.0"), ((16, 16), "(16, 16)"), ([16], "[16]"), ("16", "'16'")),
        *((None, "None"), (True, "True"), (np.float64(16), "16.0")),
    ],
    ids=str,
)
def test_value_that_is_not_one_integer_is_refused(value, shown):
    with pytest.raises(UserError) as error:
        checked("image_size", value, Range(minimum=1, is_whole=True))
    assert str(error.value) == f"image_size={shown}: must be an integer, 1 or greater"


def test_several_choices_in_place_of_one_are_refused():
    with pytest.raises(UserError, match="choose a or b"):
        checked("layers", ("a",), Range(choices=("a", "b")))


@pytest.mark.parametrize("value", ["no", 1, None, [True]])
def test_values_that_are_no_bools_are_refused(value):
    with pytest.raises(UserError, match="^normalize=.*: must be True or False$"):
        checked_bool("normalize", value)

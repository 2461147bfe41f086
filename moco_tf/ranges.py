"""Ranges of settings: one check and one wording for the config and the protocols."""

import dataclasses
import math
import numbers
from typing import Any

import numpy as np

from moco_tf.errors import UserError

# The largest valid integer, in any range: it fits the counters and seeds of all libraries.
LARGEST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Range:
    """The valid values of a setting; a tuple is valid if every item is.

    Attributes:
        minimum: Smallest valid number.
        above: Number that a valid number is greater than.
        maximum: Largest valid number.
        choices: All valid values.
        is_pair: Whether a valid value is two such numbers, of which the first is not the greater.
        is_whole: Whether a valid number is an integer.

    Example:
        >>> str(Range(above=0)), Range(above=0).error(0.5), Range(above=0).error(0)
        ('greater than 0', None, 'must be greater than 0')
    """

    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] | None = None
    is_pair: bool = False
    is_whole: bool = False

    def __str__(self) -> str:
        if self.is_pair:
            return f"two numbers {dataclasses.replace(self, is_pair=False)}, the smaller one first"
        if self.choices:
            *others, last = self.choices
            return f"{', '.join(others)} or {last}"
        upper = "" if self.maximum is None else f"{self.maximum:g}"
        if self.minimum is not None:
            lower = f"{self.minimum:g}"
            return f"between {lower} and {upper}" if upper else f"{lower} or greater"
        if self.above is not None:
            lower = f"greater than {self.above:g}"
            return f"{lower} and at most {upper}" if upper else lower
        return f"at most {upper}" if upper else ""

    def error(self, value: Any) -> str | None:
        """Return what is wrong with a value and which values are valid, or None."""
        if self.is_pair:
            items = dataclasses.replace(self, is_pair=False)
            is_valid = isinstance(value, (tuple, list)) and len(value) == 2
            is_valid = is_valid and items.error(value) is None and value[0] <= value[1]
            return None if is_valid else f"must be {self}, such as 0.2,1"
        is_tuple = isinstance(value, (tuple, list))
        for item in value if is_tuple else (value,):
            if self.choices:
                if item not in self.choices:
                    return f"choose {self}"
            elif isinstance(item, (int, float)) and not isinstance(item, bool):
                if isinstance(item, int) and item > LARGEST:
                    return f"must be at most {LARGEST}"
                if isinstance(item, float) and not math.isfinite(item):
                    return ", ".join(filter(None, ["must be a finite number", str(self)]))
                too_small = (self.minimum is not None and item < self.minimum) or (
                    self.above is not None and item <= self.above
                )
                if self.is_whole and not isinstance(item, int):
                    return ", ".join(filter(None, [f"must be {_whole(is_tuple)}", str(self)]))
                if too_small or (self.maximum is not None and item > self.maximum):
                    return f"must be {self}"
            elif self.is_whole:
                return ", ".join(filter(None, [f"must be {_whole(is_tuple)}", str(self)]))
            elif str(self):
                numbers = "numbers separated by commas" if is_tuple else "a number"
                return f"must be {numbers}, {self}"
        return None


COUNT = Range(minimum=1, is_whole=True)
POSITIVE = Range(above=0)
NOT_NEGATIVE = Range(minimum=0)
FRACTION = Range(minimum=0, maximum=1)


def plain(value: Any) -> Any:
    """Return a number of NumPy as an `int` or a `float`, and any other value as it is."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return int(value) if isinstance(value, numbers.Integral) else float(value)
    return value


def checked(name: str, value: Any, valid: Range) -> Any:
    """Return one value that a function was given, after checking it.

    Args:
        name: Name of the argument, for messages.
        value: The argument.
        valid: The valid values.

    Returns:
        The value. A number of NumPy is an `int` or a `float`, which can be written as JSON.

    Raises:
        UserError: If it is out of range, or there are several.

    Example:
        >>> checked("image_size", np.int64(32), Range(minimum=1, is_whole=True))
        32
    """
    value = plain(value)
    problem = valid.error(value)
    if isinstance(value, tuple | list):  # Each value in it may be valid.
        kind = "an integer" if valid.is_whole else "a number"
        problem = f"choose {valid}" if valid.choices else f"must be {kind}, {valid}"
    if problem:
        shown = str(value) if valid.choices else repr(value)
        raise UserError(f"{name}={shown:.100}: {problem}")
    return value


def checked_bool(name: str, value: Any) -> bool:
    """Return a bool that a function was given, after checking it.

    Args:
        name: Name of the argument, for messages.
        value: The argument.

    Raises:
        UserError: If it is not a bool of Python or NumPy. A text such as `"no"` would count as
            True.

    Example:
        >>> checked_bool("normalize", np.bool_(True))
        True
    """
    if not isinstance(value, bool | np.bool_):
        raise UserError(f"{name}={value!r:.100}: must be True or False")
    return bool(value)


def _whole(is_tuple: bool) -> str:
    return "integers separated by commas" if is_tuple else "an integer"

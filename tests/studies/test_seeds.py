"""The flag --seeds of the studies."""

import pytest
from absl import flags

from moco_tf.errors import UserError
from studies import seeds


def parse(*arguments):
    values = flags.FlagValues()
    seeds.define_flag(values, default=[0, 1])
    values(["command", *arguments])
    return seeds.parse(values)


def test_seeds_are_distinct_and_in_order():
    assert parse() == [0, 1]
    assert parse("--seeds=3,0,3,10") == [3, 0, 10]


@pytest.mark.parametrize("seed", ["-1", "a", "1.5", "²", ""])
def test_seeds_are_integers(seed):
    with pytest.raises(UserError, match=f"--seeds={seed}: use integers of 0 or greater"):
        parse(f"--seeds={seed}")

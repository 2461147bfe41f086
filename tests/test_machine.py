"""The cores of a machine, also on systems that do not tell which ones a process may use."""

import os

from moco_tf.machine import usable_cores


def test_usable_cores_are_those_of_the_process():
    everything = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(everything)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, everything)
    assert usable_cores() == len(everything)


def test_usable_cores_without_affinity(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert usable_cores() == os.cpu_count()

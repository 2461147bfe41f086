"""What a plan finds about the devices of this machine."""

import os
import pathlib
import re
import subprocess

import pytest

from moco_tf.plan import devices


def test_cpu_of_this_machine():
    found = devices.look()
    assert (found.kind, found.replicas, found.unused_gpus) == ("cpu", 1, 0)
    assert found.cores == int(subprocess.check_output(["nproc"]))
    # Rounded to megabytes, and less in a container with a limit.
    text = pathlib.Path("/proc/meminfo").read_text()
    total = 1024 * int(re.search(r"MemTotal: +(\d+) kB", text)[1])
    assert 2**28 < found.memory <= total


def test_replicas_share_the_memory(two_replicas):
    whole = devices.look().memory
    with two_replicas.scope():
        found = devices.look()
    assert found.replicas == 2
    assert found.memory == pytest.approx(whole / 2, rel=0.01)


def test_a_gpu_that_is_switched_off_is_not_missed(monkeypatch):
    monkeypatch.setattr(devices.glob, "glob", lambda pattern: ["/dev/nvidia0"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices.look().has_hidden_gpu
    for value in ("", "-1"):
        monkeypatch.setitem(os.environ, "CUDA_VISIBLE_DEVICES", value)
        assert not devices.look().has_hidden_gpu


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("processor : 0\nflags : fpu avx512f avx512_bf16\n", True),
        ("processor : 0\nflags : fpu avx2 amx_bf16 amx_tile\n", True),
        ("processor : 0\nflags : fpu avx2 avx512f\nbugs : avx512_bf16\n", False),
        ("processor : 0\nFeatures : fp asimd\n", False),
    ],
)
def test_bfloat16_of_a_processor(tmp_path, text, expected):
    (tmp_path / "cpuinfo").write_text(text)
    assert devices.cpu_has_bfloat16(str(tmp_path / "cpuinfo")) is expected
    assert not devices.cpu_has_bfloat16(str(tmp_path / "missing"))

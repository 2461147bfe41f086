"""The machine that a benchmark runs on."""

import importlib.metadata
import os
import pathlib
import platform
import shutil
from typing import Any

# Instruction sets that decide how fast convolutions are.
INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def describe(*packages: str) -> dict[str, Any]:
    """Return the processor, its cores and its instruction sets, and the versions of packages."""
    facts = _cpu_facts()
    name = facts.get("model name", platform.machine())
    if "cpu family" in facts:
        # The name alone is often that of a virtual machine.
        name += f", family {facts['cpu family']}, model {facts['model']}"
    flags = facts.get("flags", "").split()
    return {
        "processor": name,
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in INSTRUCTIONS if flag in flags],
        "versions": {package: importlib.metadata.version(package) for package in packages},
    }


def has_bfloat16() -> bool:
    """Return whether the processor multiplies bfloat16 matrices."""
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(describe()["instructions"])


def has_compiler() -> bool:
    """Return whether there is the C++ compiler that `torch.compile` calls."""
    return shutil.which(os.environ.get("CXX", "g++")) is not None


def _cpu_facts() -> dict[str, str]:
    """Return what /proc/cpuinfo says about the first core."""
    path = pathlib.Path("/proc/cpuinfo")
    text = path.read_text() if path.exists() else ""
    lines = [line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line]
    return {key.strip(): value.strip() for key, value in lines}

"""Contestants of a benchmark, which take turns, each in its own process.

Separate processes have separate peak memory, and because of the turns, other load on the machine
affects all contestants alike.
"""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any


def compare(
    names: Sequence[str], command: Callable[[str], list[str]], rounds: int
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Start all contestants and let them take turns.

    Args:
        names: Names of the contestants.
        command: Function from a name to the arguments of Python that start the contestant, which
            calls `serve`.
        rounds: Number of turns of each contestant, after one that is not counted.

    Returns:
        median: Median of the seconds per turn, by name.
        last: The last report of each contestant, by name.
    """
    contestants = {}
    for name in names:
        contestants[name] = subprocess.Popen(
            [sys.executable, *command(name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        _take_turn(contestants[name])  # It starts and compiles while the others wait.
    reports: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, process in contestants.items():
            reports[name].append(_take_turn(process))
    for process in contestants.values():
        process.communicate()
    median = {
        name: statistics.median(report["seconds"] for report in reports[name]) for name in names
    }
    return median, {name: reports[name][-1] for name in names}


def _take_turn(process: subprocess.Popen) -> dict[str, Any]:
    """Let a contestant take a turn, and return its report."""
    process.stdin.write("go\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(process.stderr.read())
    return json.loads(line)


def serve(take_turn: Callable[[], Any], **facts: Any) -> None:
    """Take a turn for each line of the standard input, and report on it.

    Args:
        take_turn: Function that does the work of one turn.
        **facts: Facts to add to each report, which has the seconds of the turn and the peak memory
            in bytes.
    """
    for _ in sys.stdin:
        start = time.perf_counter()
        take_turn()
        seconds = time.perf_counter() - start
        print(json.dumps(dict(seconds=seconds, peak=peak_memory(), **facts)), flush=True)


def peak_memory() -> int:
    """Return the peak memory of this process in bytes.

    It is not less than that of the process that started it, which should import little.
    """
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

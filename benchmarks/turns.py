"""Contestants of a benchmark: each a process of its own, which take turns.

So each has its own peak memory, and whatever else the machine does meets all of them.
"""

import json
import resource
import statistics
import subprocess
import sys
import time


def compare(names, command, rounds):
    """Starts all contestants and lets them take turns.

    Args:
        names: list of str.
        command: a name to the arguments of Python that start the contestant, which calls `serve`.
        rounds: int, turns of each, after one that is not counted.

    Returns:
        By name: the median of their seconds, and what each said last.
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
        _turn(contestants[name])  # starts and compiles, alone
    said = {name: [] for name in names}
    for _ in range(rounds):
        for name, process in contestants.items():
            said[name].append(_turn(process))
    for process in contestants.values():
        process.communicate()
    median = {name: statistics.median(turn["seconds"] for turn in said[name]) for name in names}
    return median, {name: said[name][-1] for name in names}


def _turn(process):
    """Lets a contestant take a turn, and returns what it says of it."""
    process.stdin.write("go\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(process.stderr.read())
    return json.loads(line)


def serve(turn, **facts):
    """Takes a turn for each line of the standard input, and says how long it took, how many bytes
    the process had at its peak, and the `facts`."""
    for _ in sys.stdin:
        start = time.perf_counter()
        turn()
        seconds = time.perf_counter() - start
        print(json.dumps(dict(seconds=seconds, peak=peak(), **facts)), flush=True)


def peak():
    """The most bytes of memory that this process has had until now."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

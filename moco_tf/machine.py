"""The memory and the cores of this machine."""

import os


def main_memory() -> int:
    """Return the memory that this process may use, in bytes.

    It is that of the machine, or the limit of its container.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                return min(memory, int(file.read()))
        except (OSError, ValueError):  # There is no such limit; "max" stands for none.
            continue
    return memory


def usable_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Not on macOS.
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

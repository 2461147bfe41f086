"""The lock of a run directory, so that only one process writes to it at a time."""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy
from moco_tf.names import printable

NAME = "lock.json"
HEARTBEAT_SECONDS = 15.0
# Shared file systems may show a change to another machine only after a minute.
PATIENCE_SECONDS = 120.0


class Lock:
    """A lock that this process holds.

    Attributes:
        taken_by: Description of the process that has taken the lock over, or None. This happens if
            this process was suspended, or the file system unreachable, for several minutes.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.taken_by: str | None = None
        self.contents: dict[str, Any] = {**_this_process(), "token": uuid.uuid4().hex}
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="run lock", daemon=True)

    def require(self) -> None:
        """Raise a `UserError` if another process has taken the lock over."""
        if self.taken_by is not None:
            raise UserError(
                f"the run directory {os.path.dirname(self.path)} was taken over by "
                f"{self.taken_by} while this process was suspended or could not write there: let "
                "that process finish, or stop it and run the same command again"
            )

    def write(self) -> None:
        """Write the lock with the current time."""
        write_atomically(self.path, json.dumps(self.contents | {"heartbeat": time.time()}) + "\n")

    def start(self) -> None:
        """Renew the lock from now on, until `release`."""
        self._thread.start()

    def release(self) -> None:
        """Remove the lock if this process still holds it."""
        self._released.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        # What cannot be removed now is taken over later as the lock of a dead process.
        with contextlib.suppress(tf.errors.OpError, OSError):
            if self._is_own():
                tf.io.gfile.remove(self.path)

    def _beat(self) -> None:
        while not self._released.wait(HEARTBEAT_SECONDS):
            # The directory may be unreachable for a while; whatever is saved there says so.
            with contextlib.suppress(tf.errors.OpError, OSError):
                if not self._is_own():
                    self.taken_by = describe(_read(self.path))
                    return
                self.write()

    def _is_own(self) -> bool:
        return _read(self.path).get("token") == self.contents["token"]


@contextlib.contextmanager
def hold(workdir: str) -> Iterator[Lock]:
    """Hold the lock of a run directory while the block runs.

    A lock is taken over if its process has died: at once if it was on this machine, and after
    two minutes without a heartbeat if it was on another one.

    Args:
        workdir: Path of the run directory, local or a `tf.io.gfile` path; it is created if it does
            not exist. On storage such as `gs://`, where creating a file does not fail if it exists,
            two processes that start within the same second are noticed at the next heartbeat.

    Yields:
        The lock.

    Raises:
        UserError: If another process holds it, or the directory cannot be written.
    """
    lock = Lock(os.path.join(workdir, NAME))
    try:
        _acquire(lock, workdir)
    except (tf.errors.OpError, OSError) as error:
        raise UserError(
            f"the run directory {workdir} cannot be written ({error_reason(error)}): "
            f"{write_remedy(error, workdir)}, or use another directory"
        ) from error
    lock.start()
    try:
        yield lock
    finally:
        lock.release()


def describe(holder: dict[str, Any]) -> str:
    """Return the process and the machine of a lock in words."""
    if "pid" not in holder:
        return "another process"
    return printable(f"process {holder['pid']} on {holder.get('host')}")


def _acquire(lock: Lock, workdir: str) -> None:
    tf.io.gfile.makedirs(workdir)
    while not _create(lock):
        holder = _read(lock.path)
        if _is_alive(lock.path, holder):
            raise UserError(
                f"the run directory {workdir} is in use by {describe(holder)}: wait until that "
                "process ends, or use another directory"
            )
        # Whoever took it over in the meantime has another token.
        if _read(lock.path).get("token") == holder.get("token"):
            with contextlib.suppress(tf.errors.NotFoundError):
                tf.io.gfile.remove(lock.path)


def _create(lock: Lock) -> bool:
    """Create the file of the lock, and return whether it did not exist before."""
    if "://" not in lock.path:
        try:
            os.close(os.open(lock.path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
    elif tf.io.gfile.exists(lock.path):
        return False
    try:
        lock.write()
    except (tf.errors.OpError, OSError):
        tf.io.gfile.remove(lock.path)  # The next process would take it for the lock of another.
        raise
    return True


def _read(path: str) -> dict[str, Any]:
    """Return the contents of a lock; an empty dict if it does not exist or is damaged."""
    try:
        with tf.io.gfile.GFile(path) as file:
            contents = json.loads(file.read())
    except (tf.errors.NotFoundError, ValueError):
        return {}
    return contents if isinstance(contents, dict) else {}


def _is_alive(path: str, holder: dict[str, Any]) -> bool:
    """Return whether the process that holds a lock still runs."""
    here = _this_process()
    machine = ("host", "boot", "pid_namespace")
    if all(holder.get(key) == here[key] for key in machine):
        pid, started = holder.get("pid"), holder.get("started")
        if started is not None:
            return _start_time(pid) == started
        # Without /proc, as on macOS, the number may be that of a new process.
        if not _exists(pid):
            return False
    print(
        f"{path} is held by {describe(holder)}: waiting up to {PATIENCE_SECONDS:.0f} seconds to "
        "see whether that process still runs",
        flush=True,
    )
    # The clocks of two machines differ, so the heartbeat itself is watched and not its time.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, HEARTBEAT_SECONDS))
        current = _read(path)
        if current.get("heartbeat") != holder.get("heartbeat"):
            return bool(current)
    return False


def _this_process() -> dict[str, Any]:
    """Return what identifies this process among all processes of all machines.

    Two machines may have the same name, and containers on one machine number their processes
    independently.
    """
    return {
        "host": socket.gethostname(),
        "boot": _contents("/proc/sys/kernel/random/boot_id"),
        "pid_namespace": _target("/proc/self/ns/pid"),
        "pid": os.getpid(),
        "started": _start_time(os.getpid()),
    }


def _exists(pid: Any) -> bool:
    """Return whether there is a process with this number on this machine."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, TypeError, ValueError):
        return False
    except PermissionError:
        return True
    return True


def _start_time(pid: Any) -> str | None:
    """Return the start of a process on this machine; None if it does not run.

    The number of a dead process can be given to a new one, which has another start.
    """
    stat = _contents(f"/proc/{pid}/stat")
    if stat is None:
        return None
    # The name of the process, in parentheses, may contain spaces. The start is the 22nd field.
    state, *fields = stat.rpartition(")")[2].split()
    is_dead = state in "ZX"  # Its parent has not noticed its end yet.
    return None if is_dead else fields[18]


def _contents(path: str) -> str | None:
    try:
        return pathlib.Path(path).read_text().strip()
    except OSError:
        return None


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None

"""Fixtures that all tests share, and TensorFlow set up as the tests need it."""

import atexit
import contextlib
import fcntl
import gc
import os
import pathlib
import shutil
import signal
import tempfile

# Before TensorFlow is imported. Two tests run at a time, so TensorFlow's own threads would only
# compete with each other, here and in the processes that tests start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

# XLA compiles the augmentation anew in every process, and in many tests of each. The processes of a
# session share what it has compiled. (A run cannot: it would fail on a damaged file of the cache.)
if "TF_XLA_FLAGS" not in os.environ:
    compiled = tempfile.mkdtemp(prefix="xla-")
    os.environ["TF_XLA_FLAGS"] = f"--tf_xla_persistent_cache_directory={compiled}"
    # Workers of pytest-xdist inherit the variable, so this is the process that ends last.
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)

import pytest
import tensorflow as tf

from tests import in_process
from tests.command import TINY
from tests.images import write_folder
from tests.precision import in_float64

# Two logical devices, so that there can be two replicas.
[cpu] = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make nightly tests slow tests, which `make test` leaves out."""
    for item in items:
        if item.get_closest_marker("nightly"):
            item.add_marker("slow")


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Let processes that tests start react to SIGINT and SIGHUP.

    A shell starts background jobs with SIGINT ignored, nohup ignores SIGHUP, and processes inherit
    that.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def two_replicas():
    """Return the one strategy of the session.

    Two strategies in one process would count their collectives alike and abort each other.
    """
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory):
    """Return a directory that all pytest workers of the session share."""
    base = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    directory = (base.parent if is_worker else base) / "shared"
    directory.mkdir(exist_ok=True)
    return directory


@pytest.fixture(scope="session")
def image_folder(shared_directory):
    """Return a folder of 100 photographs in two classes. Read only."""
    with _only_one_worker(shared_directory / "images") as folder:
        if not folder.exists():
            write_folder(folder, images_per_class=50)
    return folder


@pytest.fixture(scope="session")
def trained_run(shared_directory, image_folder):
    """Return the directory of a finished run of 12 steps on `image_folder`. Read only.

    It is trained once in a session. A test that writes into it takes a copy.
    """
    with _only_one_worker(shared_directory / "run") as workdir:
        if not workdir.exists():
            unfinished = workdir.with_suffix(".unfinished")
            in_process.run("train.py", *TRAINED_RUN, source_flag(image_folder), workdir=unfinished)
            shutil.move(unfinished, workdir)
    return workdir


# The flags of `trained_run`, but for the data source.
TRAINED_RUN = (*TINY, "--config.epochs=2", "--config.knn_every=1")


def source_flag(folder: pathlib.Path) -> str:
    return f"--config.data.source=folder:{folder}"


@contextlib.contextmanager
def _only_one_worker(path):
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield path


@pytest.fixture
def float64():
    with in_float64():
        yield


@pytest.fixture(scope="module", autouse=True)
def release_memory():
    """Free Keras' models, which lie in cycles of references; some files build gigabytes of them.

    Objects that survive, such as imported packages, are not examined again after every module,
    which would take a second each time.
    """
    yield
    gc.collect()
    gc.freeze()

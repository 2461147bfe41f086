"""A run of the study in its own process.

TensorFlow keeps the graph of every training step that it has built, about 40 MB per run and 200 MB
per detector, until the process ends. Therefore `run_in_process` starts `python -m studies.worker`
for every run, and other studies start modules of their own with `call`.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from moco_tf.config import default_config
from moco_tf.errors import UserError
from moco_tf.files import error_reason
from studies import runs
from studies.labels import Labels
from studies.results import Record

LOG_FILE = "log.txt"
SECONDS_BETWEEN_POLLS = 0.2


def run_in_process(
    config: ml_collections.ConfigDict,
    workdir: str,
    signals: Sequence[int],
    on_poll: Callable[[], None],
    labels: Labels | None = None,
) -> Record | None:
    """Call `studies.runs.run` in its own process.

    Args:
        config: Config of the run.
        workdir: Path of the run directory, which must be local.
        signals: As for `call`.
        on_poll: As for `call`.
        labels: Further evaluations of the run, if any.

    Returns:
        The record of the run, or None if a signal stopped it.

    Raises:
        UserError: If the run raises one, or fails.
    """
    arguments = [config.to_json_best_effort(), workdir]
    if labels is not None:
        arguments.append(json.dumps(labels._asdict()))
    return call("studies.worker", arguments, workdir, signals, on_poll)


def call(
    module: str,
    arguments: Sequence[str],
    workdir: str,
    signals: Sequence[int],
    on_poll: Callable[[], None],
) -> Record | None:
    """Run a module, which calls `answer`, in its own process.

    The output of that process is appended to `workdir/log.txt`. If this process is killed, that
    process stops too.

    Args:
        module: Name of the module.
        arguments: Its arguments. The path of its answer follows them.
        workdir: Path of the directory of the log, which must be local.
        signals: The signals that this process has received; they may grow while the run is in
            progress. Each is sent to the process of the run once.
        on_poll: Called a few times per second.

    Returns:
        The record that the module answers, or None if a signal stopped it.

    Raises:
        UserError: If the module raises one, or fails.
    """
    log_path = os.path.join(workdir, LOG_FILE)
    try:
        os.makedirs(workdir, exist_ok=True)
        log = open(log_path, "a", encoding="utf-8")  # noqa: SIM115, it is closed below
    except OSError as error:
        raise UserError(
            f"the run directory {workdir} cannot be written ({error_reason(error)}): choose "
            "another --workdir"
        ) from error
    with log, tempfile.TemporaryDirectory() as directory:
        answer_path = os.path.join(directory, "answer.json")
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments, answer_path],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            # The terminal sends Ctrl-C to a whole group, and a second signal would stop the
            # training without saving.
            process_group=0,
        )
        num_sent = 0
        while process.poll() is None:
            for number in signals[num_sent:]:
                process.send_signal(number)
                num_sent += 1
            on_poll()
            try:
                process.wait(SECONDS_BETWEEN_POLLS)
            except subprocess.TimeoutExpired:
                continue
        assert process.stdin is not None
        process.stdin.close()
        if os.path.exists(answer_path):
            with open(answer_path, encoding="utf-8") as file:
                content = json.load(file)
            if "error" in content:
                raise UserError(content["error"])
            return content["record"]
    if signals:
        return None
    raise UserError(
        f"the run in {workdir} failed with exit status {process.returncode}: see {log_path}"
    )


def main(arguments: Sequence[str]) -> None:
    """Train and evaluate a run, and write its record or the message of its error to a file.

    Args:
        arguments: The config as JSON, the path of the run directory, the further evaluations as
            JSON, if any, and the path of the file.
    """
    config_json, workdir, *labels_json, answer_path = arguments
    labels = Labels(**json.loads(labels_json[0])) if labels_json else None
    config = default_config()
    config.update(ml_collections.ConfigDict(json.loads(config_json)))
    answer(answer_path, lambda: runs.run(config, workdir, labels))


def answer(path: str, run: Callable[[], Record | None]) -> None:
    """Call a function in a process of `call`, and write its record or the message of its error.

    Args:
        path: Path of the file to write.
        run: Function that returns a record, or None if a signal stopped it.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    content: dict[str, Any]
    try:
        content = {"record": run()}
    except UserError as error:
        content = {"error": str(error)}
    with open(path, "w", encoding="utf-8") as file:
        json.dump(content, file)


def _stop_with_parent() -> None:
    """Send this process SIGTERM when its parent, which holds the other end of stdin, is gone."""
    # Not `sys.stdin.read`, whose lock Python would wait for when it exits.
    os.read(0, 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(sys.argv[1:])

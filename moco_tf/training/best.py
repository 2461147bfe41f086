"""The best checkpoint of a run by a value of the monitor, kept beside the newest ones."""

import json
import os
import re

import tensorflow as tf
from tqdm.auto import tqdm

from moco_tf import paths, run_directory, run_metrics, workers
from moco_tf.errors import UserError
from moco_tf.files import error_reason, read_json, remove, write_atomically, write_remedy
from moco_tf.run_data import BEST, EARLIER_BEST, is_best
from moco_tf.training.checkpoints import Checkpoints

CHECKPOINT_FILE = re.compile(r"step-\d+(\.index|\.data-\d{5}-of-\d{5}|_temp/?)")
FILE = "best.json"  # What the checkpoint was chosen by.
# The files of a run directory that say what the run is.
DESCRIPTIONS = ("config.json", "data.json", "data_files.gz", "encoder.json")


def require_not_best(workdir: str) -> None:
    """Raise a `UserError` if a directory is that of the best checkpoint of a run.

    The run would delete the checkpoints of a training there.
    """
    run, name = os.path.split(paths.absolute(workdir))
    if is_best(name) and run_directory.exists(run):
        raise UserError(
            f"{workdir} holds the best checkpoint of the run {run}: to train from it, use another "
            f"directory and config.init=run:{workdir}"
        )


class BestCheckpoint:
    """Keeps the checkpoint at which a value of the monitor was largest.

    It is in `workdir/best`, which is a run directory of its own: everything that takes a run
    directory takes it. The newest checkpoint there is the best one. One that was chosen by other
    values is kept in a directory beside it, such as `workdir/best-step-800`.

    Args:
        checkpoints: The `Checkpoints` of the run.
        workdir: Run directory.
        output_dir: Directory that this worker writes to; the run directory on the chief.
        name: Name of the value in metrics.jsonl.
        source_name: The string that names the source of the monitor's images. The values of other
            images are not compared.
        image_size: Side of the monitor's views in pixels. The values of other views are not
            compared.
        training_size: Side of the views of the training in pixels, which were those of the monitor
            in earlier versions.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        workdir: str,
        output_dir: str,
        name: str,
        source_name: str,
        image_size: int,
        training_size: int,
    ) -> None:
        self.checkpoints = checkpoints
        self.output_dir = output_dir
        self.directory = os.path.join(output_dir, BEST)
        self.name = name
        self.source_name = source_name
        self.image_size = image_size
        self.value: float | None = None
        # The best checkpoint by other values, which the first one by these values would replace.
        self._earlier = ""
        directory = os.path.join(workdir, BEST)
        kept = run_directory.latest_checkpoint(directory)
        path = os.path.join(directory, FILE)
        if kept and tf.io.gfile.exists(path):
            saved = read_json(path)
            # A kill may have prevented that the file was written after its checkpoint.
            is_same = f"step-{saved.get('step')}" == os.path.basename(kept)
            size = saved.get("image_size", training_size)
            if (saved.get("name"), saved.get("source"), size) != (name, source_name, image_size):
                self._earlier = os.path.basename(kept)
            elif is_same:
                self.value = saved.get("value")

    def update(self, step: int, values: dict[str, float]) -> bool:
        """Save a checkpoint if the value is larger than before, and remove the one before.

        Args:
            step: Global step of the model.
            values: What the monitor measured, by name.

        Returns:
            Whether this step is the best so far.

        Raises:
            UserError: If the training has diverged, or the checkpoint cannot be written.
        """
        value = values.get(self.name)  # Absent if too few images can be read.
        is_better = value is not None and (self.value is None or value > self.value)
        # The chief decides, because all workers save together, and the values of workers with
        # other processors may differ by rounding.
        if not workers.gather_from_workers(int(is_better))[0]:
            return False
        self.checkpoints.finite.require(step)
        folder, name = os.path.join(self.directory, "checkpoints"), f"step-{step}"
        try:
            if self._earlier and workers.is_chief():
                self._set_aside()
            self._earlier = ""
            tf.io.gfile.makedirs(folder)
            if workers.is_chief():
                self._describe(step)
            self.checkpoints.checkpoint.write(os.path.join(folder, name))
            facts = {"name": self.name, "value": value, "step": step, "source": self.source_name}
            facts["image_size"] = self.image_size
            write_atomically(os.path.join(self.directory, FILE), json.dumps(facts) + "\n")
            for other in tf.io.gfile.listdir(folder):
                # People may keep other files there.
                if CHECKPOINT_FILE.fullmatch(other) and other.partition(".")[0] != name:
                    remove(os.path.join(folder, other.rstrip("/")))
        except (tf.errors.OpError, OSError) as error:
            if workers.worker_is_gone(error):
                raise
            raise UserError(
                f"the best checkpoint, of step {step}, cannot be written to {self.directory} "
                f"({error_reason(error)}): {write_remedy(error, self.output_dir)}, or set "
                "config.keep_best to '', and run the same command again"
            ) from error
        self.value = value
        return True

    def _set_aside(self) -> None:
        """Move the best checkpoint by other values to a directory beside, whose name is free."""
        path = first = os.path.join(self.output_dir, f"{EARLIER_BEST}{self._earlier}")
        number = 1
        while tf.io.gfile.exists(path):
            number += 1
            path = f"{first}-{number}"
        tf.io.gfile.rename(self.directory, path)
        tqdm.write(
            f"the best checkpoint so far, {self._earlier}, was not chosen by {self.name} on "
            f"{self.source_name} with views of {self.image_size} pixels: it is kept in {path}"
        )

    def _describe(self, step: int) -> None:
        """Copy the files of the run that describe it, and the metrics up to a step."""
        for name in DESCRIPTIONS:
            path = os.path.join(self.output_dir, name)
            if tf.io.gfile.exists(path):
                with tf.io.gfile.GFile(path, "rb") as file:
                    # A copy of TensorFlow would follow a link.
                    write_atomically(os.path.join(self.directory, name), file.read())
        lines = [
            json.dumps(line) + "\n"
            for line in run_metrics.read_metrics(self.output_dir)
            if line["step"] <= step
        ]
        write_atomically(os.path.join(self.directory, "metrics.jsonl"), "".join(lines))

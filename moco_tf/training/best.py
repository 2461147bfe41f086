"""The best checkpoint of a run by a value of the monitor, kept beside the newest ones."""

import json
import os

import tensorflow as tf

from moco_tf import distribution, run_directory
from moco_tf.errors import UserError
from moco_tf.files import error_reason, write_atomically, write_remedy
from moco_tf.training.checkpoints import Checkpoints

# The folder in a run directory. It is a run directory itself, with one checkpoint.
BEST = "best"
# The files of a run directory that say what the run is.
DESCRIPTIONS = ("config.json", "data.json", "data_files.gz", "encoder.json")


class BestCheckpoint:
    """Keeps the checkpoint at which a value of the monitor was largest.

    It is in `workdir/best`, which is a run directory of its own: everything that takes a run
    directory takes it. The newest checkpoint there is the best one.

    Args:
        checkpoints: The `Checkpoints` of the run.
        workdir: Run directory, whose metrics.jsonl ends at the step that the run starts from.
        output_dir: Directory that this worker writes to; the run directory on the chief.
        name: Name of the value in metrics.jsonl.
    """

    def __init__(self, checkpoints: Checkpoints, workdir: str, output_dir: str, name: str) -> None:
        self.checkpoints = checkpoints
        self.output_dir = output_dir
        self.directory = os.path.join(output_dir, BEST)
        self.name = name
        # The checkpoint that is kept may be of a later step than the one that the run starts from.
        # The run will reach that step again.
        kept = run_directory.latest_checkpoint(os.path.join(workdir, BEST))
        values = {
            f"step-{line['step']}": line[name]
            for line in run_directory.read_metrics(workdir)
            if name in line
        }
        self.value: float | None = values.get(os.path.basename(kept)) if kept else None

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
        if value is None or (self.value is not None and value <= self.value):
            return False
        self.checkpoints.finite.require(step)
        folder, name = os.path.join(self.directory, "checkpoints"), f"step-{step}"
        try:
            tf.io.gfile.makedirs(folder)
            if distribution.is_chief():
                self._describe(step)
            self.checkpoints.checkpoint.write(os.path.join(folder, name))
            for other in tf.io.gfile.listdir(folder):
                if other.partition(".")[0] != name:
                    path = os.path.join(folder, other.rstrip("/"))
                    remove = tf.io.gfile.rmtree if tf.io.gfile.isdir(path) else tf.io.gfile.remove
                    remove(path)
        except (tf.errors.OpError, OSError) as error:
            if distribution.worker_is_gone(error):
                raise
            raise UserError(
                f"the best checkpoint, of step {step}, cannot be written to {self.directory} "
                f"({error_reason(error)}): {write_remedy(error, self.output_dir)}, or set "
                "config.keep_best to '', and run the same command again"
            ) from error
        self.value = value
        return True

    def _describe(self, step: int) -> None:
        """Copy the files of the run that describe it, and the metrics up to a step."""
        for name in DESCRIPTIONS:
            path = os.path.join(self.output_dir, name)
            if tf.io.gfile.exists(path):
                tf.io.gfile.copy(path, os.path.join(self.directory, name), overwrite=True)
        lines = [
            json.dumps(line) + "\n"
            for line in run_directory.read_metrics(self.output_dir)
            if line["step"] <= step
        ]
        write_atomically(os.path.join(self.directory, "metrics.jsonl"), "".join(lines))

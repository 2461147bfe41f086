"""Runs in Python and in notebooks: what a run directory holds, as an object."""

import base64
import functools
import html
import os
from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from moco_tf import paths, run_data, run_directory, run_metrics
from moco_tf.backbones.loading import load_backbone
from moco_tf.config import evaluation_size, total_steps
from moco_tf.data import sources
from moco_tf.data.sources.source import Source
from moco_tf.errors import UserError
from moco_tf.files import read_json
from moco_tf.names import printable

if TYPE_CHECKING:
    import pandas

CURVES, REPORT = "curves.png", "report.html"


def load_run(workdir: str | os.PathLike[str]) -> "Run":
    """Open an existing run without training it.

    Args:
        workdir: Path of the run directory, in which `~` and environment variables are expanded.

    Returns:
        The `Run`.

    Raises:
        UserError: If the directory holds no run, or a file in it is damaged.

    Example:
        >>> import moco_tf
        >>> run = moco_tf.load_run("runs/mine")
        >>> run.step, run.total_steps, run.finished
        (12, 12, True)
    """
    return Run(workdir)


class Run:
    """A run in a run directory, finished or not.

    Everything but the backbone and the source is read from the directory whenever it is used, so
    that a run that is being trained elsewhere can be watched.

    Args:
        workdir: Path of the run directory, as for `load_run`.

    Attributes:
        workdir: Path of the run directory, absolute.
        config: The config of the run.

    Raises:
        UserError: If the directory holds no run, or a file in it is damaged.

    Example:
        >>> import moco_tf
        >>> run = moco_tf.load_run("runs/mine")
        >>> run.backbone.output_shape
        (None, 64)
        >>> run.metrics["knn_top1"].dropna().index.tolist()
        [0, 6, 12]
    """

    def __init__(self, workdir: str | os.PathLike[str]) -> None:
        workdir = paths.expand_argument(workdir, "workdir")
        self.config = run_directory.read_config(workdir)
        # The working directory may change.
        self.workdir = paths.absolute(workdir)

    @property
    def step(self) -> int:
        """Step of the newest checkpoint; 0 if there is none yet.

        Raises:
            UserError: If the run directory is gone.
        """
        self._require_directory()
        path = run_directory.latest_checkpoint(self.workdir)
        return run_directory.step_of(path) if path else 0

    @property
    def total_steps(self) -> int:
        """Number of steps of the whole run.

        Raises:
            UserError: If the run directory is gone.
        """
        num_images = run_data.read_num_images(self.workdir)
        return total_steps(self.config, num_images // self.config.batch_size)

    @functools.cached_property
    def source(self) -> Source:
        """The images of the run, as `moco_tf.load_source` opens them with the run's options.

        They are opened when they are first used.

        Raises:
            UserError: If the images cannot be read.

        Example:
            >>> import moco_tf
            >>> run = moco_tf.load_run("runs/mine")
            >>> test = moco_tf.extract_features(run.backbone, run.source, "test", 32)
            >>> test.features.shape[1]
            64
        """
        return sources.from_config(self.config)

    @property
    def evaluation_size(self) -> int:
        """Side in pixels of the central views on which the run is evaluated.

        It is `config.evaluation_size`, or `config.image_size` if that is 0. Use it as `image_size`
        for the features of the run's backbone.

        Example:
            >>> import moco_tf
            >>> run = moco_tf.load_run("runs/mine")
            >>> size = run.evaluation_size
            >>> train = moco_tf.extract_features(run.backbone, run.source, "train", size)
            >>> train.features.shape[1]
            64
        """
        return evaluation_size(self.config)

    @property
    def finished(self) -> bool:
        """Whether the run has been trained to its end."""
        return self.step >= self.total_steps

    @functools.cached_property
    def backbone(self) -> keras.Model:
        """The trained backbone, as `moco_tf.load_backbone` returns it.

        It is loaded from the newest checkpoint when it is first used.
        """
        return load_backbone(self.workdir)

    @property
    def metrics(self) -> "pandas.DataFrame":
        """The metrics by step, a `pandas.DataFrame`: the columns are the keys of metrics.jsonl.

        Raises:
            UserError: If pandas is not installed, or the run directory is gone.
        """
        self._require_directory()
        try:
            import pandas
        except ImportError as error:
            raise UserError("the metrics are a data frame of pandas: pip install pandas") from error
        rows: dict[int, dict[str, Any]] = {}
        for line in run_metrics.read_metrics(self.workdir):
            rows.setdefault(line["step"], {}).update(line)
        frame = pandas.DataFrame(list(rows.values()), columns=None if rows else ["step"])
        return frame.set_index("step").sort_index()

    def report(self) -> str:
        """Return the path of the run's report, an HTML page with its curves, features and findings.

        It is written first if there is none, or if it is not about the newest checkpoint.

        Returns:
            The path.

        Raises:
            UserError: If there is no checkpoint yet, the images cannot be read, or the report
                cannot be written.
        """
        from moco_tf.report.report import write_report

        path = os.path.join(self.workdir, REPORT)
        if not (tf.io.gfile.exists(path) and self._has_current_report()):
            write_report(self.workdir)
        return path

    def _require_directory(self) -> None:
        if not tf.io.gfile.isdir(self.workdir):
            raise UserError(
                f"the run directory {self.workdir} does not exist any more: restore it, or open "
                "the run with moco_tf.load_run where it is now"
            )

    def _has_current_report(self) -> bool:
        """Return whether the report is about the newest checkpoint and the images of the run."""
        try:
            report = read_json(os.path.join(self.workdir, "eval", "report.json"))
        except UserError:  # There is none, or it is damaged.
            return False
        actual = [report.get(key) for key in ("step", "data", "image_size")]
        source = printable(paths.expand_source(self.config.data.source))
        return actual == [self.step, source, self.evaluation_size]

    def __repr__(self) -> str:
        try:
            state = "finished" if self.finished else "not finished"
            steps = f"step {self.step:,} of {self.total_steps:,}"
        except (UserError, tf.errors.OpError, OSError):
            reason = "is damaged" if tf.io.gfile.isdir(self.workdir) else "does not exist any more"
            return f"<moco_tf.Run {self.workdir!r}: the directory {reason}>"
        return f"<moco_tf.Run {self.workdir!r}: {steps}, {state}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the text, and the curves of the run."""
        text = f"<p>{html.escape(repr(self))}</p>"
        path = os.path.join(self.workdir, CURVES)
        if not tf.io.gfile.exists(path):
            return text
        with tf.io.gfile.GFile(path, "rb") as file:
            picture = base64.b64encode(file.read()).decode()
        return f'{text}<img alt="curves" src="data:image/png;base64,{picture}" width="100%">'

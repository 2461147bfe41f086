"""Parts of a run that it goes on without if they fail."""

import contextlib
from collections.abc import Iterator

from tqdm.auto import tqdm

from moco_tf import workers
from moco_tf.errors import UserError
from moco_tf.files import error_reason


class Accessory:
    """A part of a run that it can do without, such as its plots: a failure is reported once.

    Args:
        what: What the run goes on without, such as "curves.png".
        is_shared: Whether all workers compute it together. If there are several, a failure of one
            of them then ends the run, because the others would wait for it.
    """

    def __init__(self, what: str, is_shared: bool = False) -> None:
        self.what = what
        self.is_shared = is_shared
        self.has_failed = False

    @contextlib.contextmanager
    def may_fail(self) -> Iterator[None]:
        """Run the block, and warn if it raises an exception for the first time."""
        try:
            yield
        except Exception as error:
            if workers.worker_is_gone(error):
                raise
            if self.is_shared and workers.several_workers():
                raise UserError(f"{self.what} failed: {error_reason(error)}") from error
            if not self.has_failed:
                tqdm.write(f"warning: the run goes on without {self.what}: {error_reason(error)}")
            self.has_failed = True

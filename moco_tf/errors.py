"""The exception for mistakes that a user can correct."""


class UserError(Exception):
    """A mistake in a setting, a path or a file that the user can correct.

    Its message is one line that names the value, the place and the remedy. The commands print it
    without a traceback and exit with status 2.
    """

    def _render_traceback_(self) -> list[str]:
        """Return the lines that a notebook shows instead of the traceback."""
        return [f"UserError: {self}"]

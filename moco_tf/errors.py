"""The one kind of error that a person's input causes."""


class UserError(ValueError):
    """A mistake in what a person gave: one line that names the value, the place and the remedy.

    The scripts print it without a traceback and exit with status 2.
    """

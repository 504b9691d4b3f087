"""What ends a run: diverged, interrupted, checked, or something that a user can mend."""


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop, and saved itself
    """The run was asked to stop, has saved its place and ends."""


class Checked(Exception):  # noqa: N818 - not an error
    """Only asked to check (``--check``), and all is well."""


class Failed(SystemExit):
    """What a user can mend, in one line; exit code 2."""

    def __init__(self, line: str) -> None:
        super().__init__(2)
        self.line = line


class Diverged(ValueError):  # noqa: N818 - it says what became of the run
    """A loss is not a number any more, or infinite."""

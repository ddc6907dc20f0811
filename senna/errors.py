"""Exceptions for failures that a user can fix. The command line prints them without a traceback.

An error has a message (what happened, with the value), where it happened (file, record) and a remedy (what to do). They are
fields: no code parses the text of an exception.
"""

from os import PathLike


class SennaError(Exception):
    """A failure while working.

    Attributes:
        message: what happened, with the offending value.
        remedy: what the user can do about it; None where nothing is known to help.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy

    def __reduce__(self):
        return _rebuild, (type(self), self.args, self.__dict__.copy())

    @property
    def location(self) -> str:
        """Where it happened, as a prefix of the message; empty here."""
        return ""

    def __str__(self) -> str:
        where = f"{self.location}: " if self.location else ""
        return where + self.message + (f"; {self.remedy}" if self.remedy else "")


class UsageError(SennaError):
    """Wrong use, or a check that failed before any work began and before anything was written."""

    exit_code = 2


class DataError(SennaError):
    """A record or an image that cannot be used.

    Attributes:
        file: the file that holds the record, or the image.
        record: which record of the file: an index, a line or an id, as text for people.
        kind: a short name of the fault for programs, for example ``MISSING_IMAGE``.
    """

    MISSING_IMAGE = "missing image"

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        file: str | PathLike[str] | None = None,
        record: str | int | None = None,
        kind: str | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.file, self.record, self.kind = file, record, kind

    @property
    def location(self) -> str:
        record = None if self.record is None else f"record {self.record}"
        return ": ".join(str(part) for part in (self.file, record) if part is not None)


def _rebuild(kind: type[SennaError], args: tuple, state: dict) -> SennaError:
    """Restore an error in another process (`pickle` calls the class with positional arguments only)."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error

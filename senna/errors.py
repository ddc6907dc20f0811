"""Exceptions for failures that a user can fix. The command line prints them without a traceback.

An error has a message (what happened, with the value), a location (file, record) and a remedy (what to do). They are fields:
no code parses the text of an exception.
"""

from os import PathLike


class SennaError(Exception):
    """A failure while a command works.

    Attributes:
        message: what happened, with the offending value.
        remedy: what the user can do about it, as an imperative; None if nothing is known to help.
        exit_code: the exit code of the command.
    """

    exit_code = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message, self.remedy = message, remedy

    def __reduce__(self):
        return _rebuild, (type(self), self.args, self.__dict__.copy())

    @property
    def location(self) -> str:
        """The file and record in which it happened, as a prefix of the message; empty unless a subclass knows them."""
        return ""

    def __str__(self) -> str:
        prefix = f"{self.location}: " if self.location else ""
        return prefix + self.message + (f"; {self.remedy}" if self.remedy else "")


class UsageError(SennaError):
    """Wrong use of a command, or a check that failed before any work began and before anything was written."""

    exit_code = 2


class DataError(SennaError):
    """A record or an image that cannot be used.

    Attributes:
        file: the file of records, or the image.
        record: the record in the file, as text for people: its index, line and id.
        kind: a short name of the fault for programs, for example ``DataError.MISSING_IMAGE``.
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
        """The file and the record, as far as they are known: "FILE: record 2, line 3 (id)"."""
        record = None if self.record is None else f"record {self.record}"
        return ": ".join(str(part) for part in (self.file, record) if part is not None)

    def located(self, file: str | PathLike[str], record: str | int) -> "DataError":
        """Return the same error with the record in which it happened. A location of its own moves into the message."""
        if (self.file, self.record) == (file, record):
            return self
        message = f"{self.location}: {self.message}" if self.location else self.message
        return DataError(message, remedy=self.remedy, file=file, record=record, kind=self.kind)


def first_line(error: BaseException) -> str:
    """Return the first line of another library's message, for a message of ours; its type if it has no text."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _rebuild(error_type: type[SennaError], args: tuple, state: dict) -> SennaError:
    """Restore a pickled error without calling ``__init__``, whose keyword arguments pickle would not pass."""
    error = error_type.__new__(error_type, *args)
    error.args = args
    error.__dict__.update(state)
    return error

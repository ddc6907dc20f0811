"""The failures a user can mend: told in one message, without a traceback, with the exit code that scripts rely on."""


class SennaError(Exception):
    """A failure while working. The message says what is wrong, where, and what to do about it."""

    exit_code = 1


class UsageError(SennaError):
    """Wrong use, or a check that failed before any work began and before anything was written."""

    exit_code = 2


class DataError(SennaError):
    """A record or an image that cannot be used. The message names the file and the record."""

"""Captions stored on disk, keyed by what determines them: the image's content, the question, and the captioner.

The cache is one SQLite file. Each answer is committed by itself, so that it survives a killed process. Only one machine
writes it: on a cluster that is the driver. Several runs on that machine may share the file.
"""

import errno
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from senna.convert.captioners import Request, StreamingCaptioner, in_order
from senna.errors import DataError, SennaError, UsageError
from senna.image_file import check_image_file
from senna.record_checks import replace_surrogates

_LOCK_SECONDS = 60.0  # time to wait while another run writes
_FULL, _IO_ERROR = 13, 10  # primary SQLite result codes, https://www.sqlite.org/rescode.html
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class AnswerCache:
    """The answers of a captioner in a file; ``close`` it when done."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, key: str) -> str | None:
        """Return the answer to a question (`answer_key`), None where the file has none."""
        with self._reporting_errors():
            row = self._database.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
        return (row[0] or None) if row else None

    def store(self, key: str, text: str) -> None:
        """Write an answer to disk. An empty answer is not stored: the captioner may give one later."""
        if text:
            with self._reporting_errors():
                self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))

    def close(self) -> None:
        """Close the file."""
        if "_database" in self.__dict__:
            self._database.close()
            del self._database

    @cached_property
    def _database(self) -> sqlite3.Connection:
        with self._reporting_errors():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # isolation_level=None commits every statement.
            database = sqlite3.connect(self._path, timeout=_LOCK_SECONDS, isolation_level=None)
            database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"
            )
            return database

    @contextmanager
    def _reporting_errors(self) -> Iterator[None]:
        """Turn errors of SQLite and the file system into errors with a remedy."""
        try:
            yield
        except sqlite3.OperationalError as error:
            remedy = "make room" if _is_full(error) else "make sure that it can be written"
            raise SennaError(
                f"the cache of captions {self._path} failed: {error}", remedy=f"{remedy} and run the same command again"
            ) from error
        except sqlite3.DatabaseError as error:
            raise UsageError(
                f"{self._path} is damaged or not a cache of captions ({error})", remedy="move it away"
            ) from error
        except OSError as error:
            remedy = "make room" if error.errno in _NO_SPACE else "give another --captions-cache"
            raise SennaError(
                f"the cache of captions {self._path} cannot be created: {error.strerror or error}", remedy=remedy
            ) from error


class CachedCaptioner:
    """A captioner that asks an inner captioner only what the cache does not have yet."""

    def __init__(self, inner: StreamingCaptioner, path: Path) -> None:
        self._inner, self._cache = inner, AnswerCache(path)

    @property
    def name(self) -> str:
        """The name of the inner captioner, which records show as the author of the answer."""
        return self._inner.name

    @property
    def window(self) -> int:
        """The number of requests that keep the inner captioner busy."""
        return self._inner.window

    @property
    def settings(self) -> str:
        """The settings of the inner captioner."""
        return self._inner.settings

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """Return one text for each request, in order."""
        return in_order(self.stream(requests))

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """Yield (index, text): first the stored answers, then new ones, each stored before it is yielded."""
        hashes = {path: content_hash(path) for path in {request.image for request in requests}}
        missing: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            key = answer_key(hashes[request.image], self.name, self.settings, request.question)
            if key in missing or (text := self._cache.load(key)) is None:
                missing.setdefault(key, []).append(index)
            else:
                yield index, text
        keys, groups = list(missing), list(missing.values())
        for number, text in self._inner.stream([requests[same[0]] for same in groups]) if groups else ():
            text = replace_surrogates(text)
            self._cache.store(keys[number], text)
            for index in groups[number]:
                yield index, text

    def close(self) -> None:
        """Close the cache."""
        self._cache.close()


def answer_key(image_hash: str, captioner: str, settings: str, question: str) -> str:
    """Return the key of an answer in the cache: a hash of all that determines it."""
    return hashlib.sha256("\0".join((image_hash, captioner, settings, question)).encode()).hexdigest()


def _is_full(error: sqlite3.OperationalError) -> bool:
    """Return whether the disk is full or failed; Python 3.10 does not give the code of an error, so the answer is no."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in (_FULL, _IO_ERROR)  # the low byte of an extended code is the primary code


def content_hash(path: Path) -> str:
    """Return the SHA-256 of an image file."""
    check_image_file(path)
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(
            f"the image cannot be read ({error.strerror or error})",
            remedy="copy it again",
            file=path,
            kind=DataError.MISSING_IMAGE if isinstance(error, FileNotFoundError) else None,
        ) from error

"""Answers kept on disk under what decides them: the picture's content, the question, and who was asked.

One SQLite file, written an answer at a time: whatever came before a kill -9 is there afterwards, and several shards on
one machine may share it.
"""

import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

from senna.convert.captioners import Request, StreamingCaptioner, in_order
from senna.errors import DataError, SennaError, UsageError

_WAIT = 60.0  # seconds for another shard to finish its writing
_FULL = ("full", "disk i/o")


class CachedCaptioner:
    """A captioner that asks the one inside only what the file does not hold yet. ``close`` it, or let it go."""

    def __init__(self, inner: StreamingCaptioner, path: Path) -> None:
        self._inner, self._path = inner, path

    @property
    def name(self) -> str:
        """The name of the one inside: a record says who answered, not where the answer was kept."""
        return self._inner.name

    @property
    def window(self) -> int:
        """How many requests keep the one inside busy."""
        return self._inner.window

    @property
    def settings(self) -> str:
        """Of the one inside."""
        return self._inner.settings

    def answer(self, requests: Sequence[Request]) -> list[str]:
        """One text a request, in their order."""
        return in_order(self.stream(requests))

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place, text), first those that are known, then the others as they come, each kept before it is handed on."""
        pictures = {path: _content(path) for path in {request.image for request in requests}}
        missing: dict[str, list[int]] = {}
        for place, request in enumerate(requests):
            key = self._key(pictures[request.image], request.question)
            if key in missing or (text := self._kept(key)) is None:
                missing.setdefault(key, []).append(place)
            else:
                yield place, text
        keys, places = list(missing), list(missing.values())
        for number, text in self._inner.stream([requests[same[0]] for same in places]) if places else ():
            self._keep(keys[number], text)
            for place in places[number]:
                yield place, text

    def close(self) -> None:
        """Let the file go."""
        if "_database" in self.__dict__:
            self._database.close()
            del self._database

    def _key(self, picture: str, question: str) -> str:
        parts = (picture, self._inner.name, self._inner.settings, question)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    @cached_property
    def _database(self) -> sqlite3.Connection:
        with self._reported():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            database = sqlite3.connect(
                self._path, timeout=_WAIT, isolation_level=None
            )  # None: each answer is committed
            database.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID"
            )
            return database

    def _kept(self, key: str) -> str | None:
        with self._reported():
            row = self._database.execute("SELECT text FROM answers WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def _keep(self, key: str, text: str) -> None:
        with self._reported():
            self._database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, text))

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Turn what SQLite and the disk say into what the user can do."""
        try:
            yield
        except sqlite3.OperationalError as error:
            remedy = "make room" if any(word in str(error).lower() for word in _FULL) else "see that it can be written"
            raise SennaError(
                f"the captions' cache {self._path}: {error}; {remedy} and run the same command again"
            ) from error
        except sqlite3.DatabaseError as error:
            raise UsageError(
                f"the captions' cache {self._path} is damaged or no cache ({error}); move it away"
            ) from error
        except OSError as error:
            raise SennaError(f"the captions' cache {self._path} cannot be made: {error.strerror or error}") from error


def _content(path: Path) -> str:
    """The SHA-256 of a picture file."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"image {path} cannot be read ({error.strerror or error})") from error

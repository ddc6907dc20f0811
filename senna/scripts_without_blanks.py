"""Chinese and Japanese texts, which put no blanks between words: their characters are counted and compared instead."""

import re

CHARACTER = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9d\U00020000-\U0003ffff"
)
"""Ideographs, hiragana and katakana, as the inside of a character class."""

ENDS = "。！？｡．"
"""Characters that end a sentence."""

_CHARACTER = re.compile(f"[{CHARACTER}]")
_PUNCTUATION = re.compile(
    "[\u3001-\u3003\u3008-\u3020\u3030\u303d\u30a0\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]"
)


def has_characters(text: str) -> bool:
    """Return whether a text has Chinese or Japanese characters."""
    return not text.isascii() and _CHARACTER.search(text) is not None


def separate(text: str) -> str:
    """Return a text with blanks around each Chinese or Japanese character; other texts stay as they are."""
    return text if text.isascii() else _CHARACTER.sub(r" \g<0> ", text)


def count_words(text: str) -> int:
    """Return the number of words of a text; each Chinese or Japanese character counts as one, its punctuation does not."""
    if not has_characters(text):
        return len(text.split())
    return len(separate(_PUNCTUATION.sub(" ", text)).split())

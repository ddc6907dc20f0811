"""Clean and check the answers of captioners, and ask again where an answer cannot be used.

The rules for each kind of question are in its `senna.kinds.CaptionRules`.
"""

import re
from collections import Counter
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from senna.convert.captioners import ANNOTATIONS, Captioner, Request
from senna.convert.light_words import light_word_of_characters
from senna.kinds import TRAFFIC_LIGHTS, CaptionRules, kind_named, resolve
from senna.record_checks import replace_surrogates
from senna.scripts_without_blanks import ENDS, count_words, has_characters, separate
from senna.servers.replies import NoAnswer

REFUSED = "refused by the server"
"""The problem of a caption whose request the server rejected."""

_REPEATED_WORDS, _REPEATED_TIMES, _MAX_PERIOD = 8, 3, 40
_ENDS = re.compile(rf"[.!?{ENDS}][\"'”’)\]*」』）】》〉〕］＂＇]*\Z")
_REFUSAL = re.compile(
    r"\b(?:as an ai\b|(?:i'm|i am) (?:sorry|unable)|i (?:cannot|can't) (?:see|view|assist|help|provide|determine|answer))"
    r"|作为(?:一个)?(?:AI|人工智能)|(?:抱歉|对不起|對不起)|我(?:无法|不能|無法)(?:看到|查看|提供|回答|识别|确定|協助)"
    r"|申し訳(?:ありません|ございません)|画像を(?:見る|確認する)ことができません",
    re.I,
)
_REASONING = re.compile(r"<think>.*?(?:</think>|\Z)", re.S)
_PROMPT_TOKENS = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|<image>|<(?:unk|pad)>|\[/?INST\]", re.I)
_ROLE = re.compile(r"\A\s*(?:assistant|answer|gpt|助手|助理|回答|答案|答|アシスタント)\s*[:：]\s*", re.I)

_RED, _YELLOW, _GREEN, _NONE = TRAFFIC_LIGHTS
_SYNONYMS = {"amber": _YELLOW, "orange": _YELLOW}
_RGB = f"(?:{'|'.join([*(light.lower() for light in (_RED, _GREEN, _YELLOW)), *_SYNONYMS])})"
_COLOUR = rf"(?P<colour>{_RGB})"
_LAMP = r"(?:light|signal)s?\b"
_LIGHT = rf"\b{_LAMP}"
_OTHER_COLOURS = re.compile(  # colours of other lights and objects
    rf"\b(?:brake|tail|rear|turn|head|hazard|street)[ -]?{_LAMP}(?:\W+(?:is|are|glow\w*|lit|in))*(?:\W+{_RGB}\b)?"
    rf"|\b{_RGB} (?:\w+ )?(?:cars?|trucks?|vans?|bus(?:es)?|vehicles?|suvs?|sedans?|taxis?|trees?|signs?|buildings?"
    r"|jackets?|shirts?|cones?)\b",
    re.I,
)
_ALONE = re.compile(
    rf"\W*(?:(?:it|the (?:traffic )?(?:light|signal)|(?:the )?colou?r)\W+)?(?:is\W+|s\W+)?{_COLOUR}(?: light)?\W*", re.I
)
_SHOWN = (
    re.compile(rf"{_LIGHT}\W+(?:(?!not\b|no\b)\w+\W+){{0,7}}?{_COLOUR}\b", re.I),
    re.compile(rf"\b{_COLOUR} (?:traffic )?{_LIGHT}", re.I),
)
_NO_LIGHT = re.compile(
    r"\A\W*none\W*\Z|\A\W*no\W*\Z"
    rf"|\b(?:none|no|without)\W+(?:of the |any |visible |clear )*(?:traffic )?{_LIGHT}"
    rf"|(?:\bnot|n['’]t|\bcannot)\W+(?:\w+\W+){{0,2}}?(?:an?|any|the)\W+(?:visible )?(?:traffic )?{_LIGHT}"
    rf"|{_LIGHT} (?:is|are)(?: not|n['’]t) (?:visible|present|shown|seen)",
    re.I,
)


@dataclass(frozen=True)
class Caption:
    """A cleaned answer and the problems that remain, usually none.

    Attributes:
        missing: why there is no answer, where the captioner knows.
    """

    text: str
    problems: tuple[str, ...] = ()
    missing: NoAnswer | None = None

    @property
    def is_refused(self) -> bool:
        """True where the server rejected the request; asking again is useless."""
        return self.missing is not None and self.missing.is_refused


def clean(kind: str, text: str) -> str:
    """Return an answer without reasoning, prompt tokens and extra blanks; for a kind with fixed answers, the fixed answer.

    An answer that means none of the fixed answers, or several, stays as it is, and ``check`` reports it.
    """
    text = replace_surrogates(text)
    text = _ROLE.sub("", _PROMPT_TOKENS.sub(" ", _REASONING.sub(" ", text)))
    text = re.sub(r"\s+", " ", text).strip()
    rules = _rules(kind)
    return (_fixed_answer(rules, text) or text) if rules.words else text


def check(kind: str, text: str) -> list[str]:
    """Return the problems of a cleaned answer, a few words for each; empty where the answer can be used."""
    if not text:
        return ["empty"]
    rules = _rules(kind)
    if rules.words:
        return [] if text in rules.words else [f"no {kind.replace('_', ' ')} word"]
    count = count_words(text)
    found = {
        "too short": count < rules.shortest,
        "too long": count > rules.longest,
        "repeats itself": repeats(text),
        "cut off": not _ENDS.search(text),
        "broken character": "\ufffd" in text,
        "refuses": bool(_REFUSAL.search(text)),
    }
    return [problem for problem, is_present in found.items() if is_present]


def repeats(text: str) -> bool:
    """Return whether a text is caught in a repetition loop.

    A loop is a phrase three times in a row, with at least eight words in total; a sentence of at least four words that
    occurs three times; or a short string ten times in a row. A Chinese or Japanese character counts as a word.
    """
    given, text = text, separate(text)
    words = [word for word in re.findall(r"\w+", text.lower()) if not word.isdigit()]  # numbers count up in a loop
    pairs = Counter(pairwise(words))
    may_loop = max(pairs.values(), default=0) >= _REPEATED_TIMES  # a loop contains some pair of words that often
    for period in range(1, min(_MAX_PERIOD, len(words) // _REPEATED_TIMES) + 1) if may_loop else ():
        run, needed = 0, max(_REPEATED_TIMES * period, _REPEATED_WORDS) - period
        for word, later in zip(words, words[period:], strict=False):
            run = run + 1 if word == later else 0
            if run >= needed:
                return True
    sentences = [tuple(re.findall(r"[^\W\d]+", part.lower())) for part in re.split(rf"[.!?\n{ENDS}]", text)]
    long = [sentence for sentence in sentences if len(sentence) >= 4]
    return any(long.count(sentence) >= _REPEATED_TIMES for sentence in set(long)) or bool(
        re.search(r"(\S{1,20}?)\1{9}", given)
    )


def ask(captioner: Captioner, requests: Sequence[Request], retries: int = 1) -> list[Caption]:
    """Return a cleaned and checked caption for each request, in order; see `asking`.

    ``annotations`` is never asked again.

    Raises:
        SennaError: the captioner failed.
    """
    rounds = asking(requests, 0 if captioner.name == ANNOTATIONS else retries)
    texts: list[str] | None = None
    while True:
        try:
            texts = captioner.answer(next(rounds) if texts is None else rounds.send(texts))
        except StopIteration as end:
            return end.value


def asking(requests: Sequence[Request], retries: int = 1) -> Generator[list[Request], list[str], list[Caption]]:
    """Clean and check captions: yield the requests to be answered, receive their texts, return the captions in order.

    A question whose answer has problems is asked again, up to ``retries`` times, with the hint of its ``CaptionRules``:
    greedy decoding would repeat its answer to the same question. The answer with the fewest problems is kept. An empty
    answer is a problem too. A question that the server refused is not asked again.
    """
    texts = yield list(requests)
    captions = [_checked(request, text) for request, text in zip(requests, texts, strict=True)]
    for _ in range(retries):
        again = [index for index, caption in enumerate(captions) if caption.problems and not caption.is_refused]
        if not again:
            break
        hinted = [replace(requests[index], question=_hinted(requests[index])) for index in again]
        texts = yield hinted
        for index, request, text in zip(again, hinted, texts, strict=True):
            captions[index] = min(captions[index], _checked(request, text), key=lambda caption: len(caption.problems))
    return captions


def light_word(text: str) -> str | None:
    """Return the word of ``TRAFFIC_LIGHTS`` that a sentence means, None where it means none of them or several."""
    if has_characters(text):
        return light_word_of_characters(text)
    text = _OTHER_COLOURS.sub(" ", text)
    alone = _ALONE.fullmatch(text)
    matches = [alone] if alone else [match for pattern in _SHOWN for match in pattern.finditer(text)]
    shown, named = _colours(matches), _colours(re.finditer(rf"\b{_COLOUR}\b", text, re.I))
    if _NO_LIGHT.search(text):
        shown.add(_NONE)
    return next(iter(shown)) if len(shown) == 1 and named <= shown else None


def _rules(kind: str) -> CaptionRules:
    registered = kind_named(kind)
    return (registered and registered.caption) or CaptionRules()


def _fixed_answer(rules: CaptionRules, text: str) -> str | None:
    """Return the one of ``rules.words`` that a text means, None where that is unclear."""
    if rules.simplify is not None:
        return resolve(rules.simplify)(text)
    bare = text.strip(" .!*\"'").lower()
    return next((word for word in rules.words if word.lower() == bare), None)


def _hinted(request: Request) -> str:
    return f"{request.question}\n{_rules(request.kind).hint}"


def _checked(request: Request, text: str) -> Caption:
    missing = text if isinstance(text, NoAnswer) else None
    if missing is not None and missing.is_refused:
        return Caption("", (REFUSED,), missing)
    text = clean(request.kind, text)
    return Caption(text, tuple(check(request.kind, text)), missing)


def _colours(matches: Iterable[re.Match[str]]) -> set[str]:
    colours = (match["colour"].lower() for match in matches)
    return {_SYNONYMS.get(colour, colour.capitalize()) for colour in colours}

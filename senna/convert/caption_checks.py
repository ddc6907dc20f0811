"""Whether an answer of a captioner can be used, what it comes down to, and asking again where it cannot."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from senna.convert.captioners import Captioner, Request

LIGHTS = ("Red", "Green", "Yellow", "None")
LENGTHS = {"description": (4, 250), "explanation": (4, 250)}
"""Fewest and most words of an answer, by kind."""

_OTHER_LENGTHS = (1, 250)
_REPEATED_WORDS, _REPEATED_TIMES, _LONGEST_PERIOD = 8, 3, 40
_ENDS = re.compile(r"[.!?。！？][\"'”’)\]*]*\Z")
_REFUSAL = re.compile(
    r"\b(?:as an ai\b|(?:i'm|i am) (?:sorry|unable)|i (?:cannot|can't) (?:see|view|assist|help|provide|determine|answer))",
    re.I,
)
_THOUGHTS = re.compile(r"<think>.*?(?:</think>|\Z)", re.S)
_MARKS = re.compile(r"<\|[^|<>]{1,40}\|>|</?s>|<image>|<(?:unk|pad)>|\[/?INST\]", re.I)
_SPEAKER = re.compile(r"\A\s*(?:assistant|answer|gpt)\s*:\s*", re.I)

_RGB = r"(?:red|green|yellow|amber|orange)"
_COLOUR = rf"(?P<colour>{_RGB})"
_LAMP = r"(?:light|signal)s?\b"
_LIGHT = rf"\b{_LAMP}"
_ELSEWHERE = re.compile(  # colours that are not a traffic light's
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
_DARK = re.compile(
    r"\A\W*none\W*\Z|\A\W*no\W*\Z"
    rf"|\b(?:none|no|without)\W+(?:of the |any |visible |clear )*(?:traffic )?{_LIGHT}"
    rf"|(?:\bnot|n['’]t|\bcannot)\W+(?:\w+\W+){{0,2}}?(?:an?|any|the)\W+(?:visible )?(?:traffic )?{_LIGHT}"
    rf"|{_LIGHT} (?:is|are)(?: not|n['’]t) (?:visible|present|shown|seen)",
    re.I,
)
_SAME = {"amber": "Yellow", "orange": "Yellow"}

HINTS = {
    "traffic_light": "Answer with exactly one word out of Red, Green, Yellow and None.",
    "description": "Answer in two or three short, complete sentences, and say nothing twice.",
    "explanation": "Answer in one or two short, complete sentences, and say nothing twice.",
}
"""What is added to a question whose first answer could not be used; greedy decoding would only say the same again."""


@dataclass(frozen=True)
class Caption:
    """A cleaned answer and what is still wrong with it (nothing, for most)."""

    text: str
    problems: tuple[str, ...] = ()


def clean(kind: str, text: str) -> str:
    """The answer without a model's thoughts, prompt marks and stray blanks; a traffic light's as one word of ``LIGHTS``.

    An answer about a light that can be read in two ways, or not at all, stays as it is: ``check`` tells it.
    """
    text = _SPEAKER.sub("", _MARKS.sub(" ", _THOUGHTS.sub(" ", text)))
    text = re.sub(r"\s+", " ", text).strip()
    return (_light(text) or text) if kind == "traffic_light" else text


def check(kind: str, text: str) -> list[str]:
    """What is wrong with a cleaned answer, each as a few words; empty where it can be used."""
    if not text:
        return ["empty"]
    if kind == "traffic_light":
        return [] if text in LIGHTS else ["no traffic light word"]
    fewest, most = LENGTHS.get(kind, _OTHER_LENGTHS)
    count = len(text.split())
    found = {
        "too short": count < fewest,
        "too long": count > most,
        "repeats itself": repeats(text),
        "cut off": not _ENDS.search(text),
        "refuses": bool(_REFUSAL.search(text)),
    }
    return [problem for problem, wrong in found.items() if wrong]


def repeats(text: str) -> bool:
    """Whether a text is caught in a loop.

    That is: a run of words, at least eight in all, that is one phrase three times over; a sentence of four words or more
    that occurs three times; or, for writing without blanks, a short string ten times over.
    """
    words = [word for word in re.findall(r"\w+", text.lower()) if not word.isdigit()]  # numbers count up in a loop
    pairs = Counter(pairwise(words))
    loops = max(pairs.values(), default=0) >= _REPEATED_TIMES  # in a loop some two words follow each other that often
    for period in range(1, min(_LONGEST_PERIOD, len(words) // _REPEATED_TIMES) + 1) if loops else ():
        run, needed = 0, max(_REPEATED_TIMES * period, _REPEATED_WORDS) - period
        for one, other in zip(words, words[period:], strict=False):
            run = run + 1 if one == other else 0
            if run >= needed:
                return True
    sentences = [tuple(re.findall(r"[^\W\d]+", part.lower())) for part in re.split(r"[.!?\n]", text)]
    long = [sentence for sentence in sentences if len(sentence) >= 4]
    return any(long.count(sentence) >= _REPEATED_TIMES for sentence in set(long)) or bool(
        re.search(r"(\S{1,20}?)\1{9}", text)
    )


def ask(captioner: Captioner, requests: Sequence[Request], retries: int = 1) -> list[Caption]:
    """A caption for each request, in their order: cleaned, checked, and asked again (``retries`` times, with ``HINTS``).

    Of several answers the one with the fewest problems stands. An empty text, by which a captioner says that it cannot
    tell, is asked again too, except of ``annotations``, which has no second thoughts. Raises SennaError as it does.
    """
    captions = [_judged(request, text) for request, text in zip(requests, captioner.answer(requests), strict=True)]
    for _ in range(retries if captioner.name != "annotations" else 0):
        again = [place for place, caption in enumerate(captions) if caption.problems]
        hinted = [replace(requests[place], question=_hinted(requests[place])) for place in again]
        for place, request, text in zip(again, hinted, captioner.answer(hinted) if hinted else [], strict=True):
            captions[place] = min(captions[place], _judged(request, text), key=lambda caption: len(caption.problems))
    return captions


def _hinted(request: Request) -> str:
    return f"{request.question}\n{HINTS.get(request.kind, HINTS['description'])}"


def _judged(request: Request, text: str) -> Caption:
    text = clean(request.kind, text)
    return Caption(text, tuple(check(request.kind, text)))


def _light(text: str) -> str | None:
    """The word of ``LIGHTS`` that a sentence says, None where it says none or two."""
    text = _ELSEWHERE.sub(" ", text)
    alone = _ALONE.fullmatch(text)
    shown = [alone] if alone else [found for pattern in _SHOWN for found in pattern.finditer(text)]
    said, named = _colours(shown), _colours(re.finditer(rf"\b{_COLOUR}\b", text, re.I))
    if _DARK.search(text):
        said.add("None")
    return next(iter(said)) if len(said) == 1 and named <= said else None


def _colours(matches: Iterable[re.Match[str]]) -> set[str]:
    colours = (found["colour"].lower() for found in matches)
    return {_SAME.get(colour, colour.capitalize()) for colour in colours}

"""Predictions, and what can be read off a page, for the tests of the report and of the comparison."""

import math
import re
from html.parser import HTMLParser

from senna.meta_actions import ALL_META_ACTIONS, parse_meta_action
from senna.views import VIEWS

CAMERAS = [f"samples/CAM_{view.upper().replace(' ', '_')}" for view in VIEWS]
QUESTION = "The car drives at {speed} m/s and its route says: {command}. Choose its plan."


def plan(index, truth, answer, share=0.6, scene=None, mode="score", **changes):
    """A plan's prediction that gives ``answer`` this share of what the twenty have, which is 0.9 in all."""
    question = QUESTION.format(speed=f"{index % 9}.0", command="turn left" if "LEFT" in truth else "go straight")
    made = {
        "index": index,
        "id": f"{index}-plan",
        "token": str(index),
        "scene": f"s{index % 4}" if scene is None else scene,
        "kind": "plan",
        "images": [f"{camera}/{index}.jpg" for camera in CAMERAS],
        "question": question,
        "truth": f"{truth}\n",
        "trajectory": [[0.0, 4.0 * step] for step in range(1, 7)],
    }
    if mode == "generate":
        return {**made, "text": answer, **changes}
    rest = (1 - share) / (len(ALL_META_ACTIONS) - 1)
    chosen = ALL_META_ACTIONS.index(parse_meta_action(answer))
    logs = [math.log(0.9 * (share if place == chosen else rest)) for place in range(len(ALL_META_ACTIONS))]
    return {**made, "log_probs": logs, "sum": answer, "greedy": answer, "left_tree": None, **changes}


def text(index, kind, truth, answer, **changes):
    """The prediction of a question that is answered in text."""
    made = plan(index, "KEEP, STRAIGHT", "KEEP, STRAIGHT", mode="generate")
    return {
        **made,
        "id": f"{index}-{kind}",
        "kind": kind,
        "question": f"What of {kind}?",
        "truth": truth,
        "text": answer,
        **changes,
    }


class Page(HTMLParser):
    """What a browser would show and fetch. Raises AssertionError where tags do not close each other."""

    VOID = ("meta", "link", "br", "img", "wbr", "circle", "rect", "path", "polyline")  # void, or self-closed in SVG

    def __init__(self, html):
        super().__init__()
        self.words, self.fetched, self.tags, self._open = [], [], [], []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [
            value for name, value in attrs if name in ("src", "href", "srcset", "data", "action") and value
        ]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] not in (["style"], ["script"]):
            self.words.append(data)

    @property
    def text(self):
        """The words, blanks made one; narrow blanks, as before a percent sign, are blanks too."""
        return re.sub(r"\s+", " ", "".join(self.words))


def read_page(path):
    """A page that is one file: all it fetches is in it."""
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert all(address.startswith("data:") for address in page.fetched)
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert "http://" not in html
    assert "https://" not in html
    assert not re.search(r"@import|url\(", html)
    return page

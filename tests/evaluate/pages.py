"""Made-up predictions, and a parser for pages, for the tests of the report and of the comparison."""

import math
import re
from html.parser import HTMLParser

from senna.meta_actions import ALL_META_ACTIONS, parse_meta_action
from senna.views import VIEWS

CAMERAS = [f"samples/CAM_{view.upper().replace(' ', '_')}" for view in VIEWS]
QUESTION = "The car drives at {speed} m/s and its route says: {command}. Choose its plan."
STRAIGHT, LEFT, STOP = "KEEP, STRAIGHT", "KEEP, LEFT_TURN", "STOP, STRAIGHT"


def plan(index, truth, answer, share=0.6, scene=None, mode="score", **changes):
    """Return the prediction of a plan that gives ``answer`` the probability ``share`` among the twenty.

    The twenty have a probability of 0.9 together.
    """
    question = QUESTION.format(speed=f"{index % 9}.0", command="turn left" if "LEFT" in truth else "go straight")
    facts = {
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
        return {**facts, "text": answer, **changes}
    rest = (1 - share) / (len(ALL_META_ACTIONS) - 1)
    chosen = parse_meta_action(answer)
    log_probs = [math.log(0.9 * (share if action == chosen else rest)) for action in ALL_META_ACTIONS]
    return {**facts, "log_probs": log_probs, "sum": answer, "greedy": answer, "left_tree": None, **changes}


def text(index, kind, truth, answer, **changes):
    """Return the prediction of a question that is answered with text."""
    facts = plan(index, STRAIGHT, STRAIGHT, mode="generate")
    question = f"A question of the kind {kind}?"
    names = {"id": f"{index}-{kind}", "kind": kind, "question": question}
    return {**facts, **names, "truth": truth, "text": answer, **changes}


class Page(HTMLParser):
    """The text and the addresses of a page. Raises AssertionError for tags that are not closed."""

    VOID = ("meta", "link", "br", "img", "wbr", "circle", "rect", "path", "polyline")  # void, or self-closed in SVG

    def __init__(self, html):
        super().__init__()
        self.words, self.addresses, self.tags, self._open = [], [], [], []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [
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
        """Return the text with single blanks; narrow no-break spaces before percent signs become blanks as well."""
        return re.sub(r"\s+", " ", "".join(self.words))


def read_page(path):
    """Parse a page and assert that it is self-contained: no scripts, no external files."""
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    assert all(address.startswith("data:") for address in page.addresses)
    assert not {"script", "iframe", "object"} & set(page.tags)
    assert "http://" not in html
    assert "https://" not in html
    assert not re.search(r"@import|url\(", html)
    return page

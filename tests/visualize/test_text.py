"""Texts with characters that the default font lacks: another installed font, or a note in the picture."""

from pathlib import Path

import pytest

from senna.visualize import text
from senna.visualize.facts import FrameFacts
from senna.visualize.frame import _notes

CHINESE = "前方有一辆卡车。"


@pytest.fixture(autouse=True)
def _forget_fonts():
    text._other_font.cache_clear()
    yield
    text._other_font.cache_clear()


def with_fonts(monkeypatch, characters: dict[str, str]) -> None:
    """Pretend that these fonts, and DejaVu Sans, are installed."""
    known = text._characters
    monkeypatch.setattr(text, "_installed", lambda: tuple(characters))
    monkeypatch.setattr(
        text, "_characters", lambda file: frozenset(characters[file]) if file in characters else known(file)
    )


def test_latin_text_uses_the_default_font_and_gives_no_note(monkeypatch):
    with_fonts(monkeypatch, {})
    assert Path(text.font(20, text="Zürich ✓ – a “car”").path).name == "DejaVuSans.ttf"
    assert Path(text.font(20, bold=True).path).name == "DejaVuSans-Bold.ttf"
    assert text.undrawable_note(["Zürich ✓ – a “car”"]) is None


def test_an_installed_font_with_the_characters_is_used(monkeypatch):
    other = Path(text._dejavu(False)).with_name("DejaVuSerif.ttf")  # a font file that exists
    with_fonts(monkeypatch, {"none.ttf": "a", str(other): CHINESE})
    assert Path(text.font(20, text=CHINESE).path) == other
    assert text.undrawable_note([CHINESE]) is None
    assert "1 characters" in (text.undrawable_note([CHINESE, "한"]) or "")


@pytest.mark.parametrize(
    "facts",
    [
        FrameFacts("t", descriptions=[("recorded", CHINESE)]),
        FrameFacts("t", answer=CHINESE),
        FrameFacts(CHINESE),
        FrameFacts("t", reasons={"front": CHINESE}),
    ],
)
def test_without_such_a_font_the_picture_has_a_note(monkeypatch, facts):
    with_fonts(monkeypatch, {})
    assert "Noto Sans CJK" in _notes(facts, has_path=False)[0]
    assert _notes(FrameFacts("t", descriptions=[("recorded", "A truck.")]), has_path=False) == []

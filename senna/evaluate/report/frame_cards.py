"""Frames that a page shows: which, their pictures made small, and what was asked, true and answered."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from senna.evaluate.report.html import breakable
from senna.meta_actions import ALL_META_ACTIONS, MetaAction, parse_meta_action
from senna.views import VIEWS, camera_of

Prediction = Mapping[str, Any]
Pictures = Callable[[Prediction], Sequence[Path | None]]
"""The image files of a prediction, in the order of its ``images``; None for one that is not there."""

_LARGE, _SMALL = (960, 540), (480, 270)  # pixels: the front view, the others
_BYTES = {_LARGE: 110_000, _SMALL: 30_000}  # a JPEG that is larger is pressed harder
_STEP = 0.5  # seconds from a point of a trajectory to the next


def decision(prediction: Prediction) -> MetaAction | None:
    """What was decided, by the headline's rule: the likeliest of the twenty, or the text where it is one; None else."""
    return parse_meta_action(prediction["sum"] if "sum" in prediction else prediction.get("text", ""))


def truth(prediction: Prediction) -> MetaAction | None:
    """What the record says."""
    return parse_meta_action(prediction["truth"])


def probabilities(prediction: Prediction) -> np.ndarray | None:
    """(20,) over ``ALL_META_ACTIONS``: the softmax of the log-probabilities; None in generate mode."""
    if not prediction.get("log_probs"):
        return None
    logs = np.asarray(prediction["log_probs"], dtype=np.float64)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def confidence(prediction: Prediction) -> float:
    """The probability of what was decided, 0 where none is known."""
    shares, decided = probabilities(prediction), decision(prediction)
    return 0.0 if shares is None or decided is None else float(shares[ALL_META_ACTIONS.index(decided)])


def truth_probability(prediction: Prediction) -> float | None:
    """The probability of the truth; None where it is not known."""
    shares, true = probabilities(prediction), truth(prediction)
    return None if shares is None or true is None else float(shares[ALL_META_ACTIONS.index(true)])


def plans(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Those of the plan that have a truth to be held against."""
    return [one for one in predictions if one.get("kind") == "plan" and truth(one)]


def pick_errors(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """The wrong plans, the most confident first, at most two a scene as long as there are others."""
    wrong = [one for one in plans(predictions) if decision(one) != truth(one)]
    return _few_a_scene(sorted(wrong, key=lambda one: (-confidence(one), one["index"])), count)


def pick_correct(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """Right plans: one of each meta-action that occurs, the rarest first, from different scenes where there are some."""
    right = [one for one in plans(predictions) if decision(one) == truth(one)]
    often = Counter(truth(one) for one in right)
    chosen, scenes = [], Counter()
    for action in sorted(often, key=lambda action: (often[action], ALL_META_ACTIONS.index(action))):
        same = [one for one in right if truth(one) == action]
        chosen.append(min(same, key=lambda one: (scenes[one.get("scene")], -confidence(one), one["index"])))
        scenes[chosen[-1].get("scene")] += 1
    rest = [one for one in right if one not in chosen] if len(chosen) < count else []
    return [*chosen, *_few_a_scene(rest, count - len(chosen))][:count]


def pick_text_frames(predictions: Sequence[Prediction], count: int) -> list[list[Prediction]]:
    """The questions answered in text, together by frame; frames evenly spread over the file, the fullest of each part."""
    frames: dict[Any, list[Prediction]] = {}
    for one in predictions:
        if one.get("kind") not in (None, "plan") and "text" in one:
            frames.setdefault(one.get("token") or tuple(one.get("images", ())) or one["index"], []).append(one)
    kept = list(frames.values())
    count = min(count, len(kept))
    parts = [kept[place * len(kept) // count : (place + 1) * len(kept) // count] for place in range(count)]
    return [max(part, key=len) for part in parts]


def _few_a_scene(ordered: Sequence[Prediction], count: int) -> list[Prediction]:
    seen: Counter[str] = Counter()
    first, later = [], []
    for one in ordered:
        seen[one.get("scene", "")] += 1
        (first if seen[one.get("scene", "")] <= 2 else later).append(one)
    return [*first, *later][: max(count, 0)]


def picture_finder(image_folder: str | Path | None, data: str | Path | None) -> Pictures:
    """Pictures of predictions whose images lie in ``image_folder``, or beside the records ``data``."""
    folders = [*([Path(image_folder)] if image_folder else []), *([Path(data).parent] if data else [])]

    def find(prediction: Prediction) -> list[Path | None]:
        places = [[folder / name for folder in folders] for name in prediction.get("images", ())]
        return [next((path for path in some if path.is_file()), None) for some in places]

    return find


def views_of(prediction: Prediction, pictures: Pictures) -> str:
    """The pictures of a prediction: the front view large, the others around it; what is not there is a tile that says so."""
    names = prediction.get("images", ())
    if not names:
        return '<p class="soft">This record has no images.</p>'
    paths = [*pictures(prediction), *[None] * len(names)][: len(names)]
    cameras = [camera_of(name) for name in names]
    if None in cameras or len(set(cameras)) < len(cameras):
        cameras = list(VIEWS) if len(names) == len(VIEWS) else [f"image {place}" for place in range(1, len(names) + 1)]
    large = "front" if "front" in cameras else cameras[0]
    tiles = "".join(
        f'<figure class="{"large" if view == large else view.replace(" ", "-")}">'
        f"{_tile(path, view, _LARGE if view == large else _SMALL)}<figcaption>{view}</figcaption></figure>"
        for view, path in sorted(zip(cameras, paths, strict=True), key=lambda pair: pair[0] != large)
    )
    return f'<div class="views{"" if set(cameras) == set(VIEWS) else " few"}">{tiles}</div>'


def _tile(path: Path | None, view: str, size: tuple[int, int]) -> str:
    data = small_jpeg(path, size) if path is not None else None
    if data is None:
        why = "not found" if path is None or not path.is_file() else "cannot be read"
        return f'<span class="missing">image {why}</span>'
    return f'<img loading="lazy" alt="{view} view" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'


def small_jpeg(path: Path, size: tuple[int, int]) -> bytes | None:
    """The image within ``size`` pixels as JPEG; None where it is not there or no image."""
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            image.draft("RGB", size)  # a large JPEG is decoded at a half or a quarter of its size
            image = ImageOps.contain(image.convert("RGB"), size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    for quality in (75, 55, 35, 20):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() <= _BYTES[size]:
            break
    return buffer.getvalue()


def plan_card(prediction: Prediction, pictures: Pictures) -> str:
    """A plan: six views, question, truth, decision, the likeliest of the twenty."""
    answer = f"<dl><dt>answer</dt><dd>{answer_line(prediction)}</dd></dl>"
    return frame_card(prediction, pictures, answer + probability_bars(prediction))


def frame_card(prediction: Prediction, pictures: Pictures, answers: str) -> str:
    """Six views, question and truth of a plan, with what was answered (HTML) below."""
    true = f"<b>{breakable(str(truth(prediction)))}</b>{_driven(prediction.get('trajectory') or ())}"
    return (
        f'<article class="card frame">{views_of(prediction, pictures)}<div class="told"><dl><dt>question</dt>'
        f"<dd>{escape(prediction['question'])}</dd><dt>truth</dt><dd>{true}</dd></dl>{answers}{_place(prediction)}</div></article>"
    )


def answer_line(prediction: Prediction) -> str:
    """What was decided, marked right or wrong, and what else is known of how."""
    decided = decision(prediction)
    told = breakable(str(decided)) if decided else f"not a meta-action: “{escape(prediction.get('text', '')[:300])}”"
    role, mark = ("right", "✓") if decided == truth(prediction) else ("wrong", "✗")
    return f'<b class="{role}">{mark} {told}</b>{_notes(prediction)}'


def probability_bars(prediction: Prediction, count: int = 5) -> str:
    """The ``count`` likeliest of the twenty, the decision and the truth, as bars; the rest as a sum."""
    shares = probabilities(prediction)
    if shares is None:
        return ""
    true, decided = truth(prediction), decision(prediction)
    best = [ALL_META_ACTIONS[place] for place in np.argsort(-shares, kind="stable")[:count]]
    named = [*best, *[action for action in (decided, true) if action and action not in best]]
    rows, rest = "", 1.0
    for action in dict.fromkeys(named):
        share = float(shares[ALL_META_ACTIONS.index(action)])
        rest -= share
        role = "true" if action == true else "chosen" if action == decided else "other"
        mark = " (truth)" if action == true else " (answer)" if action == decided else ""
        rows += (
            f'<span class="name">{breakable(str(action))}{mark}</span><span class="bar"><i class="{role}" '
            f'style="width:{100 * share:.2f}%"></i></span><span class="value">{100 * share:.1f}&#8239;%</span>'
        )
    others = len(ALL_META_ACTIONS) - len(dict.fromkeys(named))
    rows += f'<span class="name soft">the {others} others</span><span class="bar"></span>'
    return f'<div class="chances">{rows}<span class="value soft">{100 * max(rest, 0.0):.1f}&#8239;%</span></div>'


def _driven(trajectory: Sequence[Sequence[float]]) -> str:
    points = np.asarray(trajectory, dtype=np.float64)
    if points.ndim != 2 or len(points) < 2 or points.shape[1] < 2 or not np.isfinite(points).all():
        return ""
    x, y = points[-1, :2]
    first, last = np.linalg.norm(points[0, :2]) / _STEP, np.linalg.norm(points[-1, :2] - points[-2, :2]) / _STEP
    ahead = f"{abs(y):.1f} m {'ahead' if y >= 0 else 'back'}"
    aside = f", {abs(x):.1f} m to the {'right' if x > 0 else 'left'}" if abs(x) >= 0.05 else ""
    seconds = f"{len(points) * _STEP:g} s"
    return (
        f'<span class="soft">driven in {seconds}: {ahead}{aside}; {first:.1f} m/s at first, {last:.1f} at last</span>'
    )


def _notes(prediction: Prediction) -> str:
    notes = []
    if prediction.get("greedy") and prediction["greedy"] != prediction.get("sum"):
        notes.append(f"the greedy walk ends at {prediction['greedy']}")
    if prediction.get("left_tree"):
        notes.append(f"free text would have begun “{prediction['left_tree'][:120]}”")
    return "".join(f'<span class="soft">{escape(note)}</span>' for note in notes)


def _place(prediction: Prediction) -> str:
    facts = [("record", prediction["index"]), ("token", prediction.get("token")), ("scene", prediction.get("scene"))]
    told = ", ".join(f"{name} {escape(str(value))}" for name, value in facts if value not in (None, ""))
    return f'<p class="soft small">{told}</p>'


def text_card(frame: Sequence[Prediction], pictures: Pictures) -> str:
    """A frame's questions that were answered in text."""
    shown = max(frame, key=lambda one: len(one.get("images", ())))
    count = f"{len(frame)} question{'s' if len(frame) > 1 else ''}"
    return (
        f'<article class="card frame texts">{views_of(shown, pictures)}<div class="told">'
        f"<details open><summary>{count}</summary>"
        f"{''.join(map(_asked, frame))}</details>{_place(frame[0])}</div></article>"
    )


def _asked(one: Prediction) -> str:
    rows = (("question", one["question"]), ("truth", one["truth"]), ("answer", one["text"]))
    listed = "".join(f"<dt>{name}</dt><dd>{escape(told.strip()) or '(nothing)'}</dd>" for name, told in rows)
    return f'<div class="asked"><span class="tag">{escape(str(one["kind"]))}</span><dl>{listed}</dl></div>'

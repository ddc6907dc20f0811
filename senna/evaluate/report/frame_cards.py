"""Cards of a page that show a frame: its images made small, the question, the ground truth and the model's answer."""

import base64
import io
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from senna.errors import DataError
from senna.evaluate.predictions import Prediction
from senna.evaluate.report.html import breakable
from senna.image_file import check_image_file
from senna.kinds import PLAN, TRAJECTORY
from senna.meta_actions import ALL_META_ACTIONS, STEP, MetaAction, parse_meta_action
from senna.views import VIEWS, camera_of

ImageFinder = Callable[[Prediction], Sequence[Path | None]]
"""A function from a prediction to its image files, in the order of its ``images``; None for a missing file."""

_LARGE, _SMALL = (960, 540), (480, 270)  # pixels: the front view, the other views
_MAX_BYTES = {_LARGE: 110_000, _SMALL: 30_000}  # a larger JPEG is compressed with a lower quality
_PER_SCENE = 2  # cards from one scene, as long as there are other scenes


def decision(prediction: Prediction) -> MetaAction | None:
    """Return the headline decision, by default the most probable meta-action, or the generated text; None if it is invalid."""
    field = prediction.get("headline", "sum" if "sum" in prediction else "text")
    return parse_meta_action(str(prediction.get(field, "")))


def true_action(prediction: Prediction) -> MetaAction | None:
    """Return the recorded meta-action; None if the recorded answer is not one."""
    return parse_meta_action(prediction["truth"])


def is_correct(prediction: Prediction) -> bool:
    """Return whether the decision is the recorded meta-action."""
    return decision(prediction) == true_action(prediction)


def probabilities(prediction: Prediction) -> np.ndarray | None:
    """Return (20,) over ``ALL_META_ACTIONS``, the softmax of the log-probabilities; None in generate mode."""
    log_probs = prediction.get("log_probs")
    return softmax(np.asarray(log_probs, dtype=np.float64)) if log_probs else None


def confidence(prediction: Prediction) -> float:
    """Return the probability of the decision; 0 if it is unknown."""
    return _probability_of(decision(prediction), prediction) or 0.0


def truth_probability(prediction: Prediction) -> float | None:
    """Return the probability of the ground truth; None if it is unknown."""
    return _probability_of(true_action(prediction), prediction)


def _probability_of(action: MetaAction | None, prediction: Prediction) -> float | None:
    shares = probabilities(prediction)
    return None if shares is None or action is None else float(shares[ALL_META_ACTIONS.index(action)])


def plans(predictions: Sequence[Prediction]) -> list[Prediction]:
    """Return the plans whose ground truth is a meta-action."""
    return [row for row in predictions if row.get("kind") == PLAN and true_action(row)]


def pick_errors(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """Return wrong plans, the most confident first, at most two of a scene as long as there are others."""
    wrong = [plan for plan in plans(predictions) if not is_correct(plan)]
    return spread_over_scenes(sorted(wrong, key=lambda plan: (-confidence(plan), plan["index"])))[: max(count, 0)]


def pick_correct(predictions: Sequence[Prediction], count: int) -> list[Prediction]:
    """Return correct plans: one of each meta-action, the rarest first, from different scenes if possible."""
    correct = [plan for plan in plans(predictions) if is_correct(plan)]
    frequency = Counter(action for plan in correct if (action := true_action(plan)))
    chosen, scenes = [], Counter()
    for action in sorted(frequency, key=lambda action: (frequency[action], ALL_META_ACTIONS.index(action))):
        same = [plan for plan in correct if true_action(plan) == action]
        chosen.append(min(same, key=lambda plan: (scenes[plan.get("scene")], -confidence(plan), plan["index"])))
        scenes[chosen[-1].get("scene")] += 1
    rest = [plan for plan in correct if plan not in chosen] if len(chosen) < count else []
    return [*chosen, *spread_over_scenes(rest)][:count]


def pick_text_frames(predictions: Sequence[Prediction], count: int) -> list[list[Prediction]]:
    """Return frames with the questions that were answered with text; trajectories are shown from above instead.

    The file is divided into ``count`` sections; the frame with the most questions is taken from each.
    """
    by_frame: dict[Any, list[Prediction]] = {}
    for row in predictions:
        if row.get("kind") not in (None, PLAN, TRAJECTORY) and "text" in row:
            by_frame.setdefault(row.get("token") or tuple(row.get("images", ())) or row["index"], []).append(row)
    frames = list(by_frame.values())
    count = min(count, len(frames))
    sections = [frames[number * len(frames) // count : (number + 1) * len(frames) // count] for number in range(count)]
    return [max(section, key=len) for section in sections]


def spread_over_scenes(ordered: Sequence[Prediction]) -> list[Prediction]:
    """Move all but the first two predictions of each scene to the end."""
    seen: Counter[str] = Counter()
    first, later = [], []
    for row in ordered:
        scene = row.get("scene", "")
        seen[scene] += 1
        (first if seen[scene] <= _PER_SCENE else later).append(row)
    return [*first, *later]


def image_finder(image_folder: str | Path | None, data: str | Path | None) -> ImageFinder:
    """Return a function that looks for images in ``image_folder``, then beside the file ``data`` of the records."""
    folders = [*([Path(image_folder)] if image_folder else []), *([Path(data).parent] if data else [])]

    def find(prediction: Prediction) -> list[Path | None]:
        return [
            next((path for path in (folder / name for folder in folders) if path.is_file()), None)
            for name in prediction.get("images", ())
        ]

    return find


def views_of(prediction: Prediction, find_images: ImageFinder) -> str:
    """Return the images of a prediction as HTML: the front view large, the others small, missing ones as grey tiles."""
    names = prediction.get("images", ())
    if not names:
        return '<p class="soft">This record has no images.</p>'
    paths = [*find_images(prediction), *[None] * len(names)][: len(names)]
    cameras = [camera for name in names if (camera := camera_of(name))]
    if len(set(cameras)) < len(names):
        cameras = (
            list(VIEWS) if len(names) == len(VIEWS) else [f"image {number}" for number in range(1, len(names) + 1)]
        )
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
        reason = "not found" if path is None or not path.is_file() else "cannot be read"
        return f'<span class="missing">image {reason}</span>'
    return f'<img loading="lazy" alt="{view} view" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'


def small_jpeg(path: Path, size: tuple[int, int]) -> bytes | None:
    """Return an image as JPEG that fits into ``size`` pixels; None if the file is missing or not an image."""
    from PIL import Image, ImageOps

    try:
        check_image_file(path)
        with Image.open(path) as image:
            image.draft("RGB", size)  # decodes a large JPEG at a half or a quarter of its size
            image = ImageOps.contain(image.convert("RGB"), size)
    except (DataError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    buffer = io.BytesIO()
    for quality in (75, 55, 35, 20):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() <= _MAX_BYTES[size]:
            break
    return buffer.getvalue()


def plan_card(prediction: Prediction, find_images: ImageFinder) -> str:
    """Return the card of a plan: views, question, ground truth, decision and the most probable meta-actions."""
    answer = f"<dl><dt>answer</dt><dd>{answer_line(prediction)}</dd></dl>"
    return frame_card(prediction, find_images, answer + probability_bars(prediction))


def frame_card(prediction: Prediction, find_images: ImageFinder, answers: str) -> str:
    """Return the card of a plan with views, question and ground truth, followed by ``answers`` (HTML)."""
    true = f"<b>{breakable(str(true_action(prediction)))}</b>{_trajectory_line(prediction.get('trajectory') or ())}"
    return (
        f'<article class="card frame">{views_of(prediction, find_images)}<div class="answers"><dl><dt>question</dt>'
        f"<dd>{escape(prediction['question'])}</dd><dt>ground truth</dt><dd>{true}</dd></dl>{answers}"
        f"{_source_line(prediction)}</div></article>"
    )


def answer_line(prediction: Prediction) -> str:
    """Return the decision, marked as right or wrong, with notes on how it was made."""
    decided = decision(prediction)
    answer = breakable(str(decided)) if decided else f"not a meta-action: “{escape(prediction.get('text', '')[:300])}”"
    role, mark = ("right", "✓") if is_correct(prediction) else ("wrong", "✗")
    return f'<b class="{role}">{mark} {answer}</b>{_notes(prediction)}'


def probability_bars(prediction: Prediction, count: int = 5) -> str:
    """Return bars of the ``count`` most probable meta-actions, the decision and the ground truth, and the remaining sum."""
    shares = probabilities(prediction)
    if shares is None:
        return ""
    true, decided = true_action(prediction), decision(prediction)
    best = [ALL_META_ACTIONS[code] for code in np.argsort(-shares, kind="stable")[:count]]
    listed = list(dict.fromkeys([*best, *(action for action in (decided, true) if action)]))
    rows, rest = "", 1.0
    for action in listed:
        share = float(shares[ALL_META_ACTIONS.index(action)])
        rest -= share
        role = "true" if action == true else "chosen" if action == decided else "other"
        mark = " (truth)" if action == true else " (answer)" if action == decided else ""
        rows += (
            f'<span class="name">{breakable(str(action))}{mark}</span><span class="bar"><i class="{role}" '
            f'style="width:{100 * share:.2f}%"></i></span><span class="value">{100 * share:.1f}&#8239;%</span>'
        )
    others = len(ALL_META_ACTIONS) - len(listed)
    rows += f'<span class="name soft">the other {others}</span><span class="bar"></span>'
    return f'<div class="probabilities">{rows}<span class="value soft">{100 * max(rest, 0.0):.1f}&#8239;%</span></div>'


def _trajectory_line(trajectory: Sequence[Sequence[float]]) -> str:
    points = np.asarray(trajectory, dtype=np.float64)
    if points.ndim != 2 or len(points) < 2 or points.shape[1] < 2 or not np.isfinite(points).all():
        return ""
    x, y = points[-1, :2]
    first, last = np.linalg.norm(points[0, :2]) / STEP, np.linalg.norm(points[-1, :2] - points[-2, :2]) / STEP
    forward = f"{abs(y):.1f} m {'ahead' if y >= 0 else 'back'}"
    lateral = f", {abs(x):.1f} m to the {'right' if x > 0 else 'left'}" if abs(x) >= 0.05 else ""
    seconds = f"{len(points) * STEP:g} s"
    return (
        f'<span class="soft">recorded trajectory, {seconds}: {forward}{lateral}; {first:.1f} m/s at the start, '
        f"{last:.1f} at the end</span>"
    )


def _notes(prediction: Prediction) -> str:
    notes = []
    decided, left_tree = str(decision(prediction)), prediction.get("left_tree")
    for field, name in (
        ("sum", "the most probable is"),
        ("balanced", "balanced, it is"),
        ("greedy", "greedy decoding gives"),
    ):
        if prediction.get(field, decided) != decided:
            notes.append(f"{name} {prediction.get(field)}")
    if left_tree:
        notes.append(f"unrestricted text would begin with “{left_tree[:120]}”")
    return "".join(f'<span class="soft">{escape(note)}</span>' for note in notes)


def _source_line(prediction: Prediction) -> str:
    facts = [("record", prediction["index"]), ("token", prediction.get("token")), ("scene", prediction.get("scene"))]
    listed = ", ".join(f"{name} {escape(str(value))}" for name, value in facts if value not in (None, ""))
    return f'<p class="soft small">{listed}</p>'


def text_card(frame: Sequence[Prediction], find_images: ImageFinder) -> str:
    """Return the card of a frame with its questions that were answered with text."""
    most_views = max(frame, key=lambda row: len(row.get("images", ())))
    count = f"{len(frame)} question{'s' if len(frame) > 1 else ''}"
    return (
        f'<article class="card frame texts">{views_of(most_views, find_images)}<div class="answers">'
        f"<details open><summary>{count}</summary>"
        f"{''.join(map(_question, frame))}</details>{_source_line(frame[0])}</div></article>"
    )


def _question(prediction: Prediction) -> str:
    rows = (
        ("question", prediction["question"]),
        ("ground truth", prediction["truth"]),
        ("answer", prediction.get("text", "")),
    )
    listed = "".join(f"<dt>{name}</dt><dd>{escape(text.strip()) or '(nothing)'}</dd>" for name, text in rows)
    return f'<div class="question"><span class="tag">{escape(str(prediction["kind"]))}</span><dl>{listed}</dl></div>'

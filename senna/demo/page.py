"""The demo page: controls, events and layout."""

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

from senna.demo.answer import Answerer
from senna.demo.examples import Example
from senna.demo.questions import (
    FRONT_ONLY,
    KINDS,
    MOST_CHARACTERS,
    MOST_SPEED,
    Choices,
    Refusal,
    question_text,
    views_to_show,
)
from senna.demo.remote import RemoteAnswerer
from senna.demo.result import NOTHING_YET, Result, draw, draw_problem, is_over
from senna.demo.uploads import KEPT, open_upload, serve_copy
from senna.errors import SennaError
from senna.meta_actions import MetaAction
from senna.navigation import COMMANDS
from senna.templates import load_templates
from senna.views import VIEWS

Upload = dict[str, Any] | None

logger = logging.getLogger(__name__)

AROUND = ("front left", "front", "front right", "back left", "back", "back right")  # as on the car
PLAN_TOKENS, TEXT_TOKENS = 32, 256
_MOST_WAITING = 16  # visitors in the queue; further ones are refused
_SERVER_ERROR = "An error occurred on the server and was logged. Try again, or ask another question."


@dataclass(frozen=True)
class Desk:
    """The event handlers of the page.

    Uploads arrive as gradio describes them, ``{"path": ...}`` or None. Gradio's own image loading would show Pillow's
    errors to visitors. ``uploads`` is the only folder whose files are served.
    """

    answerer: Answerer | RemoteAnswerer
    examples: Sequence[Example]
    most_megapixels: float
    uploads: Path

    def check(self, upload: Upload, shown: str, view: str) -> tuple[Any, Any, None]:
        """Check an uploaded file, and clear the answer and the ground truth, which belong to other images.

        Args:
            shown: the HTML of the current answer.

        Returns:
            the new values of the slot, the answer and the ground truth.
        """
        try:
            if upload is not None:
                open_upload(upload["path"], view, self.most_megapixels)
            return gr.skip(), NOTHING_YET if is_over(shown) else gr.skip(), None
        except Refusal as refusal:
            gr.Warning(str(refusal), title="Image refused", duration=12)
            return None, draw_problem(str(refusal)), None

    def show_example(self, chosen: gr.SelectData) -> tuple[Any, ...]:
        """Return the images in the order of AROUND, speed, command, ground truth, and an empty answer."""
        example = self.examples[chosen.index]
        try:
            images = {
                view: serve_copy(path, view, self._copy(chosen.index, view), self.most_megapixels)
                for view, path in zip(VIEWS, example.images, strict=True)
            }
        except Refusal as refusal:
            return (*[gr.skip()] * (len(AROUND) + 3), draw_problem(str(refusal)))
        except SennaError:
            logger.exception("example %s cannot be shown", chosen.index)
            return (*[gr.skip()] * (len(AROUND) + 3), draw_problem(_SERVER_ERROR))
        speed = gr.skip() if example.speed is None else example.speed
        return (
            *(str(images[view]) for view in AROUND),
            speed,
            example.command or gr.skip(),
            example.truth and str(example.truth),
            NOTHING_YET,
        )

    def _copy(self, index: int, view: str) -> Path:
        return self.uploads / "examples" / f"{index}-{view.replace(' ', '-')}.png"

    def ask(
        self,
        kind: str,
        view: str,
        speed: float | None,
        command: str,
        own: str | None,
        front_only: bool,
        truth: str | None,
        *uploads: Upload,
    ) -> Iterator[str]:
        """Yield the HTML of the growing answer. ``uploads`` are in the order of AROUND."""
        choices = Choices(kind, view, speed, command, own, front_only)
        try:
            paths = {name: upload and upload["path"] for name, upload in zip(AROUND, uploads, strict=True)}
            yield from self._answer(choices, truth, paths)
        except Refusal as refusal:
            yield draw_problem(str(refusal))
        except Exception:
            logger.exception("the question could not be answered: %s", choices)
            yield draw_problem(_SERVER_ERROR)

    def _answer(self, choices: Choices, truth: str | None, paths: dict[str, str | None]) -> Iterator[str]:
        views = views_to_show(paths, choices.front_only)
        question, start = question_text(choices, load_templates()), time.perf_counter()
        result = Result(question, views)
        yield draw(result)
        images: Any = self.answerer.pixels(self._images(views, paths))
        is_plan = choices.kind == "plan"
        if is_plan:
            scores = self.answerer.plan(question, views, images)
            known = None if truth is None else MetaAction(*truth.split(", "))
            result = result.but(
                log_probs=scores.log_probs, greedy=scores.greedy, decision=self.answerer.decision, truth=known
            )
            yield draw(result)
        for text in self.answerer.stream(question, views, images, PLAN_TOKENS if is_plan else TEXT_TOKENS):
            result = result.but(text=text)
            yield draw(result)
        yield draw(result.but(text=result.text or "", seconds=time.perf_counter() - start))

    def _images(self, views: Sequence[str], paths: dict[str, str | None]) -> Iterator[Image.Image]:
        return (open_upload(paths[view] or "", view, self.most_megapixels) for view in views)


def build_page(desk: Desk, model_name: str, device: str) -> gr.Blocks:
    """Build the page; ``model_name`` and ``device`` are shown at its top."""
    with gr.Blocks(title="Senna", analytics_enabled=False, delete_cache=(KEPT // 4, KEPT)) as page:
        gr.HTML(_head(model_name, device), padding=False)
        with gr.Row(elem_id="desk"):
            with gr.Column(scale=3, min_width=320, elem_id="pictures"):
                with gr.Row(elem_id="views"):
                    slots = [_slot(view) for view in AROUND]
                thumbnails = _thumbnails(desk.examples)
            with gr.Column(scale=2, min_width=320, elem_id="controls"):
                controls = _controls()
                with gr.Row(elem_id="buttons"):
                    ask = gr.Button("Ask", variant="primary", elem_id="ask", min_width=90, scale=2)
                    stop = gr.Button("Stop", elem_id="stop", min_width=60)
                    clear = gr.Button("Clear", elem_id="clear", min_width=60)
                result = gr.HTML(NOTHING_YET, elem_id="result", padding=False, apply_default_css=False)
        truth = gr.State(None)
        asking = gr.on(
            [ask.click, controls[4].submit],
            desk.ask,
            [*controls, truth, *slots],
            result,
            concurrency_limit=1,
            trigger_mode="once",
            preprocess=False,
            **_PRIVATE,
        )
        stop.click(None, cancels=[asking], **_PRIVATE)
        # Cleared in the browser at once, so that images chosen right afterwards stay.
        nothing = json.dumps([*[None] * len(slots), NOTHING_YET])
        clear.click(None, None, [*slots, result], js=f"() => {nothing}", **_PRIVATE)
        for view, slot in zip(AROUND, slots, strict=True):
            # The default argument binds the view. Uploads are checked at once, also while another visitor is answered.
            def check(upload: Upload, shown: str, view: str = view) -> tuple[Any, ...]:
                return desk.check(upload, shown, view)

            slot.upload(
                check, [slot, result], [slot, result, truth], show_progress="hidden", concurrency_id="checks",
                concurrency_limit=4, preprocess=False, **_PRIVATE,
            )  # fmt: skip
        if thumbnails is not None:
            chosen = [*slots, controls[2], controls[3], truth, result]
            thumbnails.select(desk.show_example, None, chosen, queue=False, show_progress="hidden", **_PRIVATE)
    page.queue(max_size=_MOST_WAITING, default_concurrency_limit=1, api_open=False)
    return page


_PRIVATE = {"api_visibility": "private"}


def style() -> dict[str, Any]:
    """Return theme and CSS for gradio: system fonts, nothing from other hosts."""
    sans = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "DejaVu Sans", "sans-serif")
    theme = gr.themes.Default(primary_hue="blue", neutral_hue="slate", font=sans, font_mono=("monospace",))
    theme = theme.set(body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400")
    return {"theme": theme, "css": (files("senna.demo") / "page.css").read_text(encoding="utf-8")}


def _head(model_name: str, device: str) -> str:
    return (
        '<header id="head"><h1>Senna</h1><p>Six cameras in; a plan for the next 3 seconds, or an answer, out. '
        f"Model: <b>{escape(model_name)}</b> on {escape(device)}. A research demo, not for driving.</p></header>"
    )


def _slot(view: str) -> gr.Image:
    return gr.Image(
        type="filepath",
        image_mode=None,
        label=view.capitalize(),
        sources=["upload"],
        buttons=[],
        height=None,
        min_width=80,
        elem_id=f"view-{view.replace(' ', '-')}",
        elem_classes="view",
        placeholder="Choose an image",
        alt_text=f"the {view} view",
    )


def _controls() -> list[gr.components.Component]:
    """Create the controls: kind, view, speed, command, own question, front only (the first arguments of `Desk.ask`)."""
    choices = [(name, kind) for kind, name in KINDS.items()]
    kind = gr.Radio(choices, value="plan", label="Question", elem_id="kind")
    view = gr.Dropdown(list(VIEWS), value="front", label="View", visible=False, elem_id="view", filterable=False)
    with gr.Row(visible=True, elem_id="situation") as situation:
        speed = gr.Slider(
            0, MOST_SPEED, value=5.0, step=0.1, label="Speed (m/s)", min_width=200, buttons=[], elem_id="speed"
        )
        command = gr.Dropdown(
            list(COMMANDS),
            value=COMMANDS[0],
            label="Navigation command",
            min_width=200,
            elem_id="command",
            filterable=False,
        )
    own = gr.Textbox(
        label="Your question", max_length=MOST_CHARACTERS, lines=2, visible=False, elem_id="own", submit_btn=False,
        placeholder="What is ahead of the car?",
    )  # fmt: skip
    front_only = gr.Checkbox(label=FRONT_ONLY, elem_id="front-only", container=False)

    def fit(chosen: str) -> tuple[Any, ...]:
        shown = (chosen == "description", chosen == "plan", chosen == "own")
        return tuple(gr.update(visible=visible) for visible in shown)

    kind.change(fit, kind, [view, situation, own], queue=False, show_progress="hidden", **_PRIVATE)
    return [kind, view, speed, command, own, front_only]


def _thumbnails(examples: Sequence[Example]) -> gr.Gallery | None:
    if not examples:
        gr.HTML(
            '<p class="hint">Examples: none yet. <code>senna demo --data FILE --image-folder DIR</code> takes them from a file '
            "of records; <code>sh scripts/quickstart.sh</code> makes one, which is found by itself.</p>",
            padding=False,
        )
        return None
    thumbnails = [example.thumbnail for example in examples]
    return gr.Gallery(
        thumbnails, label="Examples: choose one", columns=6, height="auto", allow_preview=False, interactive=False,
        object_fit="cover", buttons=[], elem_id="examples",
    )  # fmt: skip

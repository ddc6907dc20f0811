"""The page of `senna drive`: scores of all drivers with intervals, the drives one by one, and the films."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from senna.drive import metrics
from senna.drive.drivers import BLACK, EXPERT, LABELS, MODEL, TITLES
from senna.drive.work import film_file
from senna.evaluate.report import html
from senna.evaluate.report.html import card, grid, number, percent
from senna.files import atomic_write

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Senna drives</title><style>{style}
video,img.film{{width:100%;height:auto;display:block;background:var(--line,#ddd)}}</style></head>
<body><main><h1>Senna drives</h1>{body}</main></body></html>
"""
SCORE = (
    "The driving score of a drive is the share of the route that was driven, times a factor for each infraction: "
    "{vulnerable:g} for a collision with a pedestrian or cyclist, {vehicle:g} for one with a vehicle, {red:g} for a red light "
    "passed, and 1 minus the share of time off the road. It is in the spirit of CARLA's leaderboard; the factors are our own. "
    "A collision ends the drive. It is not at fault, and costs only the rest of the route, if the car stood or was hit from "
    "behind. A drive also ends 20 m off the route and after {limit:g} s; the expert needs 19.5 s."
)
INTERVALS = "Figures in small print are 95 % intervals, by a bootstrap over scenarios."
COMFORT = (
    "A step of 0.5 s is uncomfortable beyond nuPlan's limits: acceleration {low:g} to {high:g} m/s², lateral acceleration "
    "{lateral:g} m/s², jerk {jerk:g} m/s³. Agreement is the share of decisions that are the expert's in the same state."
)
ROLES = {MODEL: "model", BLACK: "blackout", EXPERT: "also", LABELS: "also"}
COLUMNS = (
    ("collisions", "collisions per drive", number),
    ("red lights", "red lights per drive", number),
    ("off road", "time off the road", percent),
    ("uncomfortable", "uncomfortable", percent),
    ("seconds", "seconds", lambda value: number(value, 1)),
    ("agreement", "agreement with the expert", percent),
)


def write_page(
    out: Path, drives: Mapping[str, Mapping[int, Mapping[str, Any]]], settings: Mapping[str, Any], form: str | None
) -> dict[str, Any]:
    """Write OUT/drive.html and return the summary of `senna.drive.metrics.summarize`.

    Args:
        drives: driver -> scenario -> the content of the drive's file.
        form: "mp4", "gif" or None, of the films.
    """
    summary = metrics.summarize(drives)
    style = html.files("senna.evaluate.report").joinpath("page.css").read_text(encoding="utf-8")
    body = "".join(_body(out, drives, summary, settings, form))
    with atomic_write(out / "drive.html") as partial:
        partial.write_text(PAGE.format(style=style, body=body), encoding="utf-8")
    return summary


def _body(
    out: Path, drives: Mapping[str, Mapping[int, Any]], summary: Mapping[str, Any], settings: Mapping[str, Any],
    form: str | None,
) -> Iterator[str]:  # fmt: skip
    found = summary["drivers"]
    facts = {"scenarios": summary["scenarios"]}
    facts |= {name: settings[name] for name in ("model", "seed", "decision", "follow")}
    yield f'<dl class="facts">{html.facts(facts.items())}</dl>'
    charts = [
        html.interval_chart(
            title, [html.Row(TITLES[name], found[name][key], ROLES.get(name, "baseline")) for name in found]
        )
        for key, title in (("score", "Driving score"), ("completion", "Route completion"))
    ]
    yield grid(*charts)
    definition = SCORE.format(
        vulnerable=metrics.VULNERABLE_FACTOR,
        vehicle=metrics.VEHICLE_FACTOR,
        red=metrics.RED_LIGHT_FACTOR,
        limit=settings["time_limit"],
    )
    yield f'<p class="soft">{definition} {INTERVALS}</p>'
    if warning := html.few_scenes(summary["scenarios"]).partition(", and classes")[0]:
        yield f"<p class=warn>{warning.replace('scenes', 'scenarios')}. Drive more before you rely on a difference.</p>"
    yield card("All drivers", _drivers(summary), _comfort_note())
    yield card("Drive by drive: driving score, and why the drive ended", _by_scenario(drives))
    yield "<h2>Films</h2>"
    films = list(_films(out, drives, form))
    yield grid(*films) if films else "<p>None; --film makes some.</p>"


def _comfort_note() -> str:
    low, high = metrics.LONGITUDINAL
    return COMFORT.format(low=low, high=high, lateral=metrics.LATERAL, jerk=metrics.JERK)


def _drivers(summary: Mapping[str, Any]) -> str:
    head = [
        "",
        "driving score",
        "lead of the first",
        "route",
        *(title for _, title, _ in COLUMNS),
        "hardest braking, m/s²",
    ]
    rows = []
    for name, found in summary["drivers"].items():
        lead = summary["leads"].get(name)
        rows.append(
            [
                escape(TITLES[name]),
                html.with_bounds(found["score"]),
                html.with_bounds(lead, html.signed) if lead else "",
                html.with_bounds(found["completion"], percent),
                *(html.with_bounds(found[key], show) for key, _, show in COLUMNS),
                number(found["max braking"], 1),
            ]
        )
    return html.table(head, rows)


def _by_scenario(drives: Mapping[str, Mapping[int, Any]]) -> str:
    first = next(iter(drives.values()))
    rows = []
    for scenario in sorted(first):
        cells = [f"{scenario}: {escape(first[scenario]['maneuver'])}, {escape(first[scenario]['sky'].lower())}"]
        for found in drives.values():
            drive = found[scenario]
            cells.append(f"{number(drive['figures']['score'], 2)}<small>{escape(_ending(drive))}</small>")
        rows.append(cells)
    return html.table(["", *(escape(TITLES[name]) for name in drives)], rows)


def _ending(drive: Mapping[str, Any]) -> str:
    """Return why a drive ended, with its infractions, as text."""
    events = [event["kind"] if event["at_fault"] else f"{event['kind']}, not at fault" for event in drive["events"]]
    lights = events.count("red light")
    parts = [event for event in events if event != "red light"] + ([f"{lights} × red light"] if lights else [])
    return ", ".join(parts if drive["end"] == "collision" else [drive["end"], *parts])


def _films(out: Path, drives: Mapping[str, Mapping[int, Any]], form: str | None) -> Iterator[str]:
    for name, found in drives.items():
        for scenario, drive in sorted(found.items()):
            path = film_file(out, name, scenario, form or "")
            if form and path.is_file():
                title = f"{escape(TITLES[name])}: scenario {scenario}, {escape(drive['maneuver'])}"
                score = f"driving score {number(drive['figures']['score'], 2)}; {escape(_ending(drive))}"
                yield card(title, _film(path, path.relative_to(out).as_posix()), score)


def _film(path: Path, link: str) -> str:
    """Return a player of a film, which stays a file beside the page; its still image is in the page."""
    still = path.with_suffix(".jpg")
    image = base64.b64encode(still.read_bytes()).decode() if still.is_file() else ""
    if path.suffix == ".mp4":
        return f'<video controls preload="none" poster="data:image/jpeg;base64,{image}" src="{link}"></video>'
    return f'<a href="{link}"><img class="film" loading="lazy" src="{link}" alt="film of the drive"></a>'

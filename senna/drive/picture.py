"""The picture of a step: six views, decision and probabilities as in `senna visualize`, and the town from above."""

from __future__ import annotations

from PIL import Image, ImageDraw

from senna.drive.drivers import TITLES, Choice
from senna.drive.loop import Trace
from senna.drive.simulator import Observation
from senna.drive.town import Expert, TownSimulator
from senna.drive.view_from_above import draw_from_above
from senna.visualize import style
from senna.visualize.facts import FrameFacts
from senna.visualize.frame import draw_frame
from senna.visualize.road import N008
from senna.visualize.text import font

ABOVE = (style.SIDE_WIDTH, 296)  # pixels


def draw_step(
    simulator: TownSimulator,
    name: str,
    title: str,
    observation: Observation,
    choice: Choice,
    expert: Expert,
    trace: Trace,
) -> Image.Image:
    """Draw the state in which a driver chose.

    Args:
        name: of the driver.
        title: of the scenario.
        trace: up to this step.
    """
    events = [f"{event.kind} at {event.time:.1f} s ({event.what})" for event in trace.events]
    facts = FrameFacts(
        title=f"{title}: {TITLES[name]}",
        subtitle=f"{observation.time:.1f} s, {100 * trace.progress:.0f} % of the route",
        predicted=choice.decision,
        truth=expert.decision,
        truth_name="expert",
        path_name="path that the expert would drive",
        camera=N008,
        probabilities=choice.probabilities,
        speed=observation.speed,
        command=observation.command,
        descriptions=[("Infractions so far", "; ".join(events) or "none")],
        trajectory=expert.trajectory[:6].tolist(),
        notes=[
            "From above: the route is yellow, the path so far blue, a stop line has the colour of its light. "
            "“Wrong” means: other than the expert, who knows the future of the signals."
        ],
    )
    picture = draw_frame(observation.images(), facts)
    above = draw_from_above(simulator, ABOVE, trace.states)
    corner = (style.SIDE_LEFT, picture.height - style.FOOT - ABOVE[1])
    picture.paste(above, corner)
    ImageDraw.Draw(picture).text((corner[0] + 8, corner[1] + 6), "from above", style.INK, font(13, bold=True))
    return picture

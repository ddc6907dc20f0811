"""The town from above, around the ego vehicle, which drives upwards."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image, ImageDraw

from senna.drive.rules import corners
from senna.drive.simulator import EgoState
from senna.drive.town import TownSimulator
from senna.synthetic.world.town import (
    DIRECTIONS,
    EXTENT,
    NODES,
    ROAD_HALF_WIDTH,
    STOP_LINE_DISTANCE,
    node_at,
)
from senna.visualize.style import RIGHT

METRES = 90.0  # width of the picture
BEHIND = 0.25  # share of the height that is behind the ego vehicle
GROUND, ASPHALT, LINE, ROUTE, OTHERS = "#dfe5da", "#8d9299", "#f5f5f5", "#f0c75e", "#3a4048"
LIGHTS = {"red": "#e0311d", "yellow": "#f2b705", "green": "#1fa34a"}


def draw_from_above(simulator: TownSimulator, size: tuple[int, int], driven: list[EgoState]) -> Image.Image:
    """Draw the moment: roads, the expert's route, signals, all road users, and the path that was driven so far."""
    picture = Image.new("RGB", size, GROUND)
    draw, ego = ImageDraw.Draw(picture), np.array(simulator.ego.position)
    scale = size[0] / METRES
    forward = np.array([math.cos(ego[2]), math.sin(ego[2])])
    right = np.array([forward[1], -forward[0]])

    def pixels(points: object) -> list[tuple[float, float]]:
        offsets = np.asarray(points, dtype=float)[:, :2] - ego[:2]
        columns, rows = size[0] / 2 + scale * (offsets @ right), size[1] * (1 - BEHIND) - scale * (offsets @ forward)
        return list(zip(columns.tolist(), rows.tolist(), strict=True))

    half = ROAD_HALF_WIDTH
    lines = sorted({float(value) for node in NODES for value in node_at(node)})
    for line in lines:
        for box in (((0, line - half), (EXTENT, line + half)), ((line - half, 0), (line + half, EXTENT))):
            (west, south), (east, north) = box
            draw.polygon(pixels([(west, south), (east, south), (east, north), (west, north)]), fill=ASPHALT)
    for line in lines:
        for path in (((0, line), (EXTENT, line)), ((line, 0), (line, EXTENT))):
            draw.line(pixels(path), fill=LINE, width=1)
    route = simulator.route.points[int(simulator.origin) : int(simulator.goal) + 2]
    draw.line(pixels(route), fill=ROUTE, width=4)
    for node in NODES:
        for heading in range(4):
            ahead, aside = DIRECTIONS[heading], DIRECTIONS[heading - 1]
            line = node_at(node) - STOP_LINE_DISTANCE * ahead
            state = simulator.start.signals.state(node, heading, simulator.time)
            draw.line(pixels([line, line + half * aside]), fill=LIGHTS[state], width=4)
    for mover, (x, y, yaw, _, _) in zip(simulator.movers[1:], simulator.states[1:].tolist(), strict=True):
        if not math.isnan(x):
            draw.polygon(pixels(corners(x, y, yaw, mover.size[0], mover.size[1])), fill=OTHERS)
    if len(driven) > 1:
        draw.line(pixels([state[:2] for state in driven]), fill=RIGHT, width=2)
    (x, y, yaw), (length, width, _) = simulator.ego.position, simulator.ego.mover.size
    draw.polygon(pixels(corners(x, y, yaw, length, width)), fill=RIGHT, outline="#ffffff")
    return picture

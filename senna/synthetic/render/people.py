"""Meshes of pedestrians and of bicycles with riders."""

from __future__ import annotations

from functools import lru_cache

from senna.synthetic.render.meshes import Mesh, Rgb, disc

WALKER_SIZE = (0.65, 0.6, 1.78)  # length, width, height in metres, of the mesh and of the annotation box
CYCLIST_SIZE = (1.8, 0.62, 1.75)

COATS: tuple[Rgb, ...] = ((198, 60, 54), (48, 92, 168), (232, 196, 72), (70, 128, 90), (222, 222, 218), (120, 76, 132))
TROUSERS: tuple[Rgb, ...] = ((44, 52, 74), (60, 56, 52), (92, 96, 104))
SKIN: tuple[Rgb, ...] = ((232, 190, 160), (150, 104, 76), (208, 164, 128))
HELMET: Rgb = (240, 240, 236)
TYRE: Rgb = (30, 30, 32)
FRAME: Rgb = (70, 74, 84)


@lru_cache(maxsize=64)
def walker_mesh(tone: int, stride: int) -> Mesh:
    """Return a pedestrian facing +x. `stride` 0 stands; 1 and 2 have one leg and the opposite arm in front."""
    mesh, swing = Mesh(), (0.0, 0.2, -0.2)[stride]
    coat, trousers = COATS[tone % len(COATS)], TROUSERS[tone % len(TROUSERS)]
    for side, reach in ((1, swing), (-1, -swing)):
        y = (side * 0.13 + 0.075, side * 0.13 - 0.075)
        mesh.prism([(reach - 0.09, 0.0), (-0.1, 0.88), (0.1, 0.88), (reach + 0.15, 0.0)], *y, trousers, layer=0)
        arm = (side * 0.29 + 0.06, side * 0.29 - 0.06)
        mesh.prism([(-reach - 0.06, 0.82), (-0.07, 1.42), (0.07, 1.42), (-reach + 0.06, 0.82)], *arm, coat, layer=1)
    mesh.prism([(-0.13, 0.82), (-0.14, 1.48), (0.12, 1.5), (0.14, 0.82)], 0.23, -0.23, coat, layer=2, top_inset=0.03)
    mesh.balls(3, ((0.02, 0.0, 1.64), 0.14, SKIN[tone % len(SKIN)]), ((-0.04, 0.0, 1.68), 0.115, (58, 44, 36)))
    return mesh


@lru_cache(maxsize=16)
def cyclist_mesh(tone: int) -> Mesh:
    """Return a bicycle with its rider facing +x, and a lamp at each end."""
    mesh, coat = Mesh(), COATS[tone % len(COATS)]
    for x in (-0.55, 0.55):
        ring = [(float(px), float(pz)) for px, _, pz in disc((x, 0, 0.34), 0.34, "y")]
        wheel, *_ = mesh.prism(ring, 0.03, -0.03, TYRE, layer=0)
        for y in (-0.035, 0.035):
            wheel.add(disc((x, y, 0.34), 0.26, "y"), (128, 130, 134))
    mesh.prism([(-0.55, 0.34), (-0.25, 0.86), (0.42, 0.86), (0.05, 0.34)], 0.03, -0.03, FRAME, layer=1)
    mesh.prism([(0.4, 0.8), (0.36, 1.04), (0.44, 1.04), (0.55, 0.4)], 0.03, -0.03, FRAME, layer=1)
    mesh.box((0.34, 0.42), (-0.28, 0.28), (1.0, 1.05), FRAME, layer=2)
    for side, drop in ((1, 0.0), (-1, 0.16)):
        y = (side * 0.13 + 0.07, side * 0.13 - 0.07)
        leg = [(0.02, 0.24 + drop), (-0.3, 0.92), (-0.08, 0.98), (0.16, 0.24 + drop)]
        mesh.prism(leg, *y, TROUSERS[tone % len(TROUSERS)], layer=2)
    mesh.prism([(-0.36, 0.9), (-0.12, 1.46), (0.1, 1.44), (-0.06, 0.9)], 0.22, -0.22, coat, layer=3, top_inset=0.02)
    for side in (1, -1):
        y = (side * 0.26 + 0.05, side * 0.26 - 0.05)
        mesh.prism([(-0.06, 1.3), (-0.02, 1.42), (0.4, 1.1), (0.36, 1.02)], *y, coat, layer=3)
    mesh.balls(4, ((0.08, 0.0, 1.58), 0.13, SKIN[tone % len(SKIN)]), ((0.04, 0.0, 1.63), 0.125, HELMET))
    mesh.halo((-0.9, 0.0, 0.7), 0.3, (255, 40, 32), (-1.0, 0.0, 0.0))
    mesh.halo((0.9, 0.0, 0.7), 0.35, (255, 246, 214), (1.0, 0.0, 0.0))
    return mesh

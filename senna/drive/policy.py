"""A model as the driver of another simulator, by the package carla-driver-interface: AlpaSim's interface ``egodriver``.

Frames and units are those of AlpaSim: metres, x forward, y left, z up; the origin of the vehicle ("rig") is on the ground below
the middle of the rear axle; times are microseconds.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
from carla_driver_interface.driver import (
    BaseDriver,
    CameraFrame,
    DriveContext,
    DriveResult,
    SessionState,
    TurnIndicator,
)
from carla_driver_interface.geometry import Pose, Trajectory
from PIL import Image

from senna.drive.cameras import Camera, assign_views, direction_of
from senna.drive.drivers import META_ACTION, TRAJECTORY, Plan
from senna.drive.route import RigRoute, RouteFollower
from senna.drive.simulator import TICK, EgoState, Observation
from senna.drive.waypoints import TrajectoryFollower
from senna.errors import DataError, SennaError, first_line
from senna.meta_actions import ALL_META_ACTIONS, FUTURE_STEPS
from senna.navigation import COMMANDS, STRAIGHT
from senna.synthetic.world.sensors import REAR_AXLE
from senna.views import VIEWS

MOST_MEGAPIXELS = 24.0
"""The largest image that is decoded. Cameras of cars have 1 to 12 megapixels."""
OLDEST = 1.0
"""Seconds after which an image is too old to drive by."""
SECOND = 1e6  # microseconds


@dataclass
class Drive:
    """A session: its cameras, and what its plans have to remember.

    Attributes:
        cameras: view -> name of the camera.
        began: time of the first request for a plan, in microseconds; None before it.
    """

    cameras: dict[str, str]
    follower: RouteFollower = field(default_factory=RouteFollower)
    began: int | None = None


class SennaDriver(BaseDriver):
    """Answers each request with a plan of 3 s in steps of 0.1 s.

    Args:
        model: an observation -> a decision, as `PlanModel`; it may be set later, before the first request.
        follow: META_ACTION (the decision, along the route) or TRAJECTORY (the model's waypoints).
        cameras: view -> name, of cameras whose views are not to be found by name or direction.
    """

    name = "senna"

    def __init__(
        self,
        model: Callable[[Observation], Plan] | None = None,
        follow: str = META_ACTION,
        cameras: Mapping[str, str] | None = None,
    ) -> None:
        self.model, self.follow, self.chosen = model, follow, cameras
        self._drives: dict[str, Drive] = {}
        self._lock = threading.Lock()  # of the model, which several sessions share

    def on_session_start(self, session: SessionState) -> None:
        """Assign the cameras to views. Raises SennaError where one is missing."""
        cameras = []
        for name, camera in session.cameras.items():
            axis = Pose.from_proto(camera.rig_to_camera).rotation_matrix[:, 2]
            cameras.append(Camera(name, direction_of(axis.tolist())))
        drive = Drive(assign_views(cameras, self.chosen))
        self._drives[session.uuid] = drive
        print(
            f"session {session.uuid}: {', '.join(f'{view} = {name}' for view, name in drive.cameras.items())}",
            flush=True,
        )

    def on_session_close(self, session: SessionState) -> None:
        """Forget the session."""
        self._drives.pop(session.uuid, None)
        print(f"session {session.uuid}: closed after {session.drive_count} plans", flush=True)

    def drive(self, ctx: DriveContext) -> DriveResult:
        """Return a plan; an empty one, which means "hold", until pose and images are there. Raises SennaError."""
        session, drive = ctx.session, self._drives.get(ctx.session.uuid)
        if drive is None:
            raise SennaError(f"session {session.uuid} was closed", remedy="start another one")
        if drive.began is None:
            drive.began = ctx.time_now_us
        with session.lock:
            frames = {view: session.latest_frame(name) for view, name in drive.cameras.items()}
            pose, speed, route = session.latest_pose(), speed_of(session), route_of(session)
        for view, frame in frames.items():
            age = (ctx.time_now_us - (frame.timestamp_us if frame else drive.began)) / SECOND
            if age > OLDEST:
                raise SennaError(
                    f"camera {drive.cameras[view]!r} ({view} view) has sent no image for {age:.1f} s",
                    remedy=f"send an image of each camera at least every {OLDEST:g} s",
                )
        encoded = {view: frame.image_bytes for view, frame in frames.items() if isinstance(frame, CameraFrame)}
        if pose is None or len(encoded) < len(VIEWS):
            return DriveResult(Trajectory.empty())
        here, time = RigRoute(route), ctx.time_now_us / SECOND
        command = here.command(speed) if len(route) > 1 else STRAIGHT
        images = {view: decode_image(data, drive.cameras[view]) for view, data in encoded.items()}
        limit = ctx.renderer_data.speed_limit_mps if ctx.renderer_data is not None else 0.0
        with self._lock:
            assert self.model is not None  # set before the server starts
            plan = self.model(Observation(time, EgoState(REAR_AXLE, 0.0, 0.0, speed), command, lambda: images))
            if self.follow == TRAJECTORY:
                poses = follow_waypoints(plan, speed)
            else:
                limit = limit if limit > 0 else math.inf
                poses = drive.follower(plan.decision, here, speed, time, limit, plan.probabilities)
        return DriveResult(
            trajectory_of(poses, ctx.time_now_us),
            debug_scalars=scalars_of(plan, command, speed),
            turn_indicator=indicator_of(plan.decision.path),
        )


def speed_of(session: SessionState) -> float:
    """Return the speed in m/s: of the last state of motion, or of the last two poses if the simulator does not send it."""
    states, times, poses = session.dynamic_states, session.ego_trajectory.timestamps_us, session.ego_trajectory.poses
    if len(poses) < 2 or states[-1].HasField("linear_velocity"):
        return session.speed_mps()
    moved = float(np.linalg.norm(poses[-1].position - poses[-2].position))
    return moved / ((times[-1] - times[-2]) / SECOND)


def route_of(session: SessionState) -> np.ndarray:
    """Return the waypoints of the route, (N, 2), in the present frame of the vehicle; they may have been sent earlier."""
    points, now = session.route_waypoints_in_rig, session.latest_pose()
    then = session.ego_trajectory.interpolate(session.route_timestamp_us)
    if now is None or then is None or not len(points):
        return np.zeros((0, 2))
    return (now.inverse() @ then).transform_points(points)[:, :2]


def follow_waypoints(plan: Plan, speed: float) -> np.ndarray:
    """Return the poses, (30, 3), of a vehicle that follows the waypoints of a plan; it brakes where there are none."""
    follower = TrajectoryFollower()
    follower.start(EgoState(REAR_AXLE, 0.0, 0.0, speed))  # of the centre: the rear axle is at the origin
    states = follower(plan.trajectory, FUTURE_STEPS).states
    return np.array([(s.x - REAR_AXLE * math.cos(s.yaw), s.y - REAR_AXLE * math.sin(s.yaw), s.yaw) for s in states])


def trajectory_of(poses: np.ndarray, time_us: int) -> Trajectory:
    """Return poses (N, 3), which follow each other every 0.1 s, as a trajectory."""
    trajectory, step = Trajectory.empty(), round(TICK * SECOND)
    for number, (x, y, yaw) in enumerate(poses.tolist(), 1):
        trajectory.append(time_us + number * step, Pose.from_xyz_yaw(x, y, 0.0, yaw))
    return trajectory


def scalars_of(plan: Plan, command: str, speed: float) -> dict[str, float]:
    """Return what is sent beside a plan, for logs: speed, command, decision and the twenty probabilities."""
    probabilities = zip(map(str, ALL_META_ACTIONS), plan.probabilities or (), strict=False)
    return {
        "speed_mps": speed,
        "command": float(COMMANDS.index(command)),
        "decision": float(ALL_META_ACTIONS.index(plan.decision)),
        **dict(probabilities),
    }


def indicator_of(path: str) -> TurnIndicator:
    """Return the turn indicator of a PATH."""
    if path == "STRAIGHT":
        return TurnIndicator.DISABLE
    return TurnIndicator.ENABLE_LEFT if path.startswith("LEFT") else TurnIndicator.ENABLE_RIGHT


def check_image(data: bytes, camera: str) -> None:
    """Raise DataError where the beginning of a file is not that of an image, or the image is too large."""
    _open_image(data, camera).close()


def decode_image(data: bytes, camera: str) -> Image.Image:
    """Return an image in RGB. Raises DataError."""
    with _open_image(data, camera) as image:
        try:
            return image.convert("RGB")
        except Exception as error:  # Pillow's parsers raise many kinds: OSError, SyntaxError, struct.error, ...
            raise DataError(
                f"the image of camera {camera!r} is damaged ({first_line(error)})", remedy="send the complete file"
            ) from error


def _open_image(data: bytes, camera: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG"))
    except Exception as error:
        raise DataError(
            f"the image of camera {camera!r} is not a JPEG or PNG file ({len(data)} bytes)",
            remedy="send the bytes of an image file",
        ) from error
    if (megapixels := image.width * image.height / 1e6) > MOST_MEGAPIXELS:
        raise DataError(
            f"the image of camera {camera!r} has {megapixels:.0f} megapixels",
            remedy=f"send images of at most {MOST_MEGAPIXELS:.0f} megapixels",
        )
    return image


def check_finite(values: Iterable[float], what: str) -> None:
    """Raise DataError where a number is NaN or infinite."""
    if not all(map(math.isfinite, values)):
        raise DataError(f"{what} has a number that is not finite", remedy="send finite numbers, in metres and seconds")

"""The gRPC server of `senna drive-server`: checks requests, and answers what it refuses with a status and a reason."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, Literal

import grpc
from carla_driver_interface.protocol import (
    add_CarlaVehicleServiceServicer_to_server,
    add_EgodriverServiceServicer_to_server,
    channel_options,
)
from carla_driver_interface.service import EgodriverServicer

from senna.drive.policy import SennaDriver, check_finite, check_image
from senna.errors import DataError, SennaError, UsageError

THREADS = 8
GRACE = 1.0
"""Seconds in which answers that are nearly ready may still be sent when the server stops."""


class Servicer(EgodriverServicer):
    """The services of carla-driver-interface, with checks of what it takes unseen."""

    def start_session(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Open a session, unless its cameras cannot be used."""
        with _refusals(context):
            if not request.session_uuid:
                raise DataError("session_uuid is empty", remedy="send an identifier that is new for each session")
            cameras = request.rollout_spec.vehicle.available_cameras
            names = [camera.logical_id for camera in cameras]
            if again := next((name for name in names if names.count(name) > 1), None):
                raise DataError(f"camera {again!r} is declared more than once", remedy="give each camera its own name")
            for camera in cameras:
                _check_pose(camera.rig_to_camera, f"rig_to_camera of camera {camera.logical_id!r}")
        return super().start_session(request, context)

    def submit_image_observation(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Take an image."""
        image = request.camera_image
        self._require_session(request.session_uuid, context)
        with _refusals(context):
            check_image(image.image_bytes, image.logical_id)
        return super().submit_image_observation(request, context)

    def submit_egomotion_observation(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Take poses and speeds."""
        with _refusals(context):
            for entry in request.trajectory.poses:
                _check_pose(entry.pose, f"the pose at {entry.timestamp_us} us")
            for state in request.dynamic_states:
                check_finite(_numbers(state.linear_velocity), "linear_velocity")
        return super().submit_egomotion_observation(request, context)

    def submit_route(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Take a route."""
        with _refusals(context):
            for number, point in enumerate(request.route.waypoints):
                check_finite(_numbers(point), f"waypoint {number} of the route")
        return super().submit_route(request, context)

    def drive(self, request: Any, context: grpc.ServicerContext) -> Any:
        """Answer with a plan."""
        with _refusals(context, grpc.StatusCode.FAILED_PRECONDITION):
            return super().drive(request, context)


@contextmanager
def _refusals(
    context: grpc.ServicerContext, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT
) -> Iterator[None]:
    """End the call with a status and the text of a SennaError that is raised inside."""
    try:
        yield
    except SennaError as error:
        context.abort(code, str(error))


def _check_pose(pose: Any, what: str) -> None:
    check_finite([*_numbers(pose.vec), *_numbers(pose.quat), pose.quat.w], what)


def _numbers(vector: Any) -> Iterable[float]:
    return vector.x, vector.y, vector.z


def bind_server(
    driver: SennaDriver, host: str, port: int, simulator: Literal["carla", "alpasim"]
) -> tuple[grpc.Server, str]:
    """Return a server that is not started yet, and its address HOST:PORT. Raises UsageError where the port cannot be used."""
    # Without so_reuseport, gRPC would share a port with another server without a word.
    server = grpc.server(futures.ThreadPoolExecutor(THREADS), options=[*channel_options(), ("grpc.so_reuseport", 0)])
    servicer = Servicer(driver, simulator)
    add_EgodriverServiceServicer_to_server(servicer, server)
    add_CarlaVehicleServiceServicer_to_server(servicer, server)
    name = f"[{host}]" if ":" in host else host
    try:
        bound = server.add_insecure_port(f"{name}:{port}")
    except RuntimeError:
        bound = 0
    if not bound:
        raise UsageError(
            f"--host {host} --port {port} cannot be used: it is taken, or no address of this machine",
            remedy="choose another port, or --port 0 for a free one",
        )
    return server, f"{name}:{bound}"


def serve(server: grpc.Server) -> None:
    """Serve until KeyboardInterrupt."""
    server.start()
    try:
        threading.Event().wait()
    finally:
        server.stop(GRACE).wait()

"""`senna drive-server`: a model as the driver of CARLA or AlpaSim."""

import importlib.util
import os
from dataclasses import dataclass
from typing import Literal, cast

from senna.drive.command import FOLLOWS, check_model
from senna.errors import UsageError
from senna.flags import flag, parse_flags, shared_flag
from senna.until_stopped import run_until_stopped

SIMULATORS = ("carla", "alpasim")


@dataclass
class DriveServerArguments:
    """Flags of `senna drive-server`."""

    model: str = shared_flag("model")
    simulator: str = flag("carla (autoware_carla_scenario) or alpasim; they declare cameras differently", "carla")
    host: str = shared_flag("host")
    port: int = shared_flag("port", default=50051)
    cameras: str | None = flag(
        "the simulator's cameras by view, for example 'front=cam0,back left=cam4' (default: by name or direction)", None
    )
    decision: str = shared_flag("decision")
    follow: str = flag(
        "the plan that is sent: meta-action, along the simulator's route; or trajectory, the model's six waypoints, for a "
        "model that was trained with --kinds plan,trajectory",
        "meta-action",
    )
    base: str | None = shared_flag("base")
    device: str = shared_flag("device")


def main(argv: list[str]) -> int:
    """Run `senna drive-server` until it is stopped. Raises SennaError."""
    args = parse_flags(
        DriveServerArguments,
        argv,
        "senna drive-server",
        "Serve a model as a driver: six camera images, poses, speed and a route in; a plan of 3 s out. It speaks AlpaSim's "
        "gRPC interface egodriver, by the package carla-driver-interface, to AlpaSim or CARLA (autoware_carla_scenario). "
        "senna/drive/README.md says what is sent and what is answered.",
        "It is untested against the real simulators.",
    )
    return run_until_stopped(lambda: _run(args))


def _run(args: DriveServerArguments) -> int:
    if importlib.util.find_spec("carla_driver_interface") is None:
        raise UsageError(
            "carla-driver-interface is not installed", remedy="pip install -c constraints.txt -e '.[simulators]'"
        )
    if args.simulator not in SIMULATORS:
        raise UsageError(f"--simulator {args.simulator} is unknown", remedy=f"use one of {', '.join(SIMULATORS)}")
    if args.follow not in FOLLOWS:
        raise UsageError(f"--follow {args.follow} is unknown", remedy=f"use one of {', '.join(FOLLOWS)}")
    if not 0 <= args.port <= 65535:
        raise UsageError(f"--port {args.port} is no port", remedy="use a number from 0 to 65535")
    from senna.drive.cameras import parse_cameras

    cameras = parse_cameras(args.cameras)
    check_model(args.model, args.base, args.device, args.decision)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # read when gRPC is imported; its errors are reported by us

    from senna.drive.drivers import PlanModel
    from senna.drive.policy import SennaDriver
    from senna.drive.server import bind_server, serve

    driver = SennaDriver(None, args.follow, cameras)
    simulator = cast(Literal["carla", "alpasim"], args.simulator)
    server, address = bind_server(
        driver, args.host, args.port, simulator
    )  # before the model, which takes a while to load
    print(f"loading {args.model} ...", flush=True)
    driver.model = PlanModel(args.model, args.base, args.device, args.decision, args.follow)
    if args.host not in ("127.0.0.1", "localhost", "::1"):
        print(f"WARNING --host {args.host}: everyone who can reach this machine can use the model", flush=True)
    print(f"drives for {args.simulator} at {address}   (Ctrl-C to stop)", flush=True)
    serve(server)
    return 0

"""`senna drive-server`: FakeLoop of carla-driver-interface drives the real server over 127.0.0.1; bad requests are answered."""

import os
import signal
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest

from senna.cli import main as cli
from senna.drive.drivers import META_ACTION, TRAJECTORY, Plan
from senna.drive.server_command import main
from senna.meta_actions import ALL_META_ACTIONS, MetaAction, parse_meta_action
from senna.navigation import COMMANDS
from senna.synthetic.world.sensors import LIDAR
from senna.views import VIEWS

EXTRA = "needs the extra: pip install -c constraints.txt -e '.[simulators]'"
AHEAD = dict(zip(VIEWS, (0, 55, -55, 110, -110, 180), strict=True))


@pytest.fixture
def package():
    """Return carla-driver-interface."""
    return pytest.importorskip("carla_driver_interface", reason=EXTRA)


def cameras(views=VIEWS):
    """Return small cameras without known names that look in the directions of views."""
    from carla_driver_interface.testing import FakeCamera

    return [FakeCamera(f"cam{VIEWS.index(view)}", 32, 18, 65.0, yaw_left_deg=AHEAD[view]) for view in views]


@contextmanager
def serving(model, follow=META_ACTION, simulator="carla"):
    """Yield the address of a server in this process; ``model`` is a decision, or a function of an observation."""
    from senna.drive.policy import SennaDriver
    from senna.drive.server import bind_server

    decide = model if callable(model) else lambda _: Plan(parse_meta_action(model))
    server, address = bind_server(SennaDriver(decide, follow), "127.0.0.1", 0, simulator)
    server.start()
    try:
        yield address
    finally:
        server.stop(0).wait()


def run(address, steps, **options):
    """Return the result of FakeLoop: 0.1 s a step on a straight road, at 8 m/s."""
    from carla_driver_interface.testing import FakeLoop

    with FakeLoop(address, cameras(), **{"initial_speed_mps": 8.0, **options}) as loop:
        return loop.run(steps)


class Client:
    """Calls of one session that `FakeLoop` would not make."""

    def __init__(self, address, views=VIEWS):
        import grpc
        from carla_driver_interface import protocol
        from carla_driver_interface.contract import contract_metadata

        self.p, self.views, self.metadata = protocol, views, contract_metadata()
        self.channel = grpc.insecure_channel(address)
        self.stub = protocol.EgodriverServiceStub(self.channel)

    def refusal(self, call, request, **options):
        """Return status and text of a refused call."""
        import grpc

        with pytest.raises(grpc.RpcError) as error:
            getattr(self.stub, call)(request, timeout=20, **options)
        return error.value.code().name, error.value.details()

    def session(self, name="s", declared=None):
        request = self.p.DriveSessionRequest(session_uuid=name)
        declared = [camera.available_camera() for camera in cameras(self.views)] if declared is None else declared
        request.rollout_spec.vehicle.available_cameras.extend(declared)
        return request

    def start(self, name="s"):
        self.stub.start_session(self.session(name), metadata=self.metadata)

    def image(self, number=0, data=None, time=0):
        from carla_driver_interface.geometry import Pose
        from carla_driver_interface.testing import FakeLoop, render_road

        if data is None:
            data = FakeLoop._encode(
                type("", (), {"image_format": "JPEG"}), render_road(cameras()[number], Pose.identity())
            )
        request = self.p.RolloutCameraImage(session_uuid="s")
        request.camera_image.logical_id, request.camera_image.image_bytes = f"cam{number}", data
        request.camera_image.frame_start_us = request.camera_image.frame_end_us = time
        return request

    def pose(self, x=0.0, time=0, speed=None):
        from carla_driver_interface.geometry import Pose, Trajectory

        request = self.p.RolloutEgoTrajectory(session_uuid="s")
        request.trajectory.CopyFrom(Trajectory([time], [Pose.from_xyz_yaw(x, 0, 0, 0)]).to_proto())
        if speed is not None:
            request.dynamic_states.append(self.p.DynamicState(linear_velocity=self.p.Vec3(x=speed)))
        return request

    def route(self, points):
        waypoints = [self.p.Vec3(x=x, y=y) for x, y in points]
        return self.p.RouteRequest(session_uuid="s", route=self.p.Route(timestamp_us=0, waypoints=waypoints))

    def observe(self, time=0, x=0.0, speed=8.0):
        self.stub.submit_egomotion_observation(self.pose(x, time, speed))
        for number in range(6):
            self.stub.submit_image_observation(self.image(number, time=time))

    def drive(self, time=0):
        return self.p.DriveRequest(session_uuid="s", time_now_us=time, time_query_us=time + 100_000)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def test_the_command_serves_a_trained_model_until_it_is_terminated(package, planner, capsys):
    """The command runs in this thread, which gets the signal; the simulator is another thread."""
    import grpc

    port, results = free_port(), []

    def simulate():
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                grpc.channel_ready_future(channel).result(60)
                results.append(run(channel, 3))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    simulator = threading.Thread(target=simulate)
    simulator.start()
    assert main(["--model", str(planner), "--device", "cpu", "--port", str(port)]) == 0
    simulator.join()
    [result] = results
    for debug, command in zip(result.debug, result.commands, strict=True):
        assert debug.policy_name == "senna"
        found = {name: debug.scalars[name] for name in map(str, ALL_META_ACTIONS)}
        assert sum(found.values()) == pytest.approx(1.0, abs=1e-6)
        decision = ALL_META_ACTIONS[int(debug.scalars["decision"])]
        assert found[str(decision)] == max(found.values())
        assert COMMANDS[int(debug.scalars["command"])] == "go straight"
        assert command.turn_indicator == {"S": 1, "L": 2, "R": 3}[decision.path[0]]
    assert np.abs(np.diff(result.ego.positions[:, 0]) - 0.8).max() < 0.05
    out = capsys.readouterr().out
    assert f"drives for carla at 127.0.0.1:{port}" in out
    assert "front left = cam1" in out
    assert "closed after 3 plans" in out
    assert out.endswith("stopped\n")
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


def test_decisions_become_motion_on_the_simulator_s_road(package):
    """FakeLoop's ego follows each plan for 0.1 s: 1 m beside its lane and turned at first."""
    with serving("KEEP, STRAIGHT") as address:
        kept = run(address, 50, initial_lateral_offset_m=1.0, initial_heading_rad=0.1)
        assert kept.ego.positions[1] == pytest.approx((0.8 * np.cos(0.1), 1 + 0.8 * np.sin(0.1), 0), abs=0.02)
    assert kept.lateral_offsets_m[-1] == pytest.approx(0, abs=0.1)
    assert kept.speeds_mps[-1] == pytest.approx(8.0, abs=0.1)
    with serving("STOP, STRAIGHT", simulator="alpasim") as address:
        stopped = run(address, 35)
    assert stopped.speeds_mps[-1] == 0
    braking = np.minimum(0.06 * np.arange(1, 35), 0.3)  # m/s in each step of 0.1 s: 6 m/s^3 up to 3 m/s^2
    assert stopped.ego.positions[-1, 0] == pytest.approx(0.1 * np.maximum(8 - np.cumsum(braking), 0).sum(), abs=0.01)
    decided = iter(["KEEP, RIGHT_CHANGE"] * 3 + ["KEEP, STRAIGHT"] * 60)
    with serving(lambda _: Plan(parse_meta_action(next(decided)))) as address:
        changed = run(address, 60)
    assert changed.lateral_offsets_m[-1] == pytest.approx(-3.5, abs=0.1)
    assert {command.turn_indicator for command in changed.commands[:3]} == {3}


def test_the_model_s_waypoints_become_motion(package):
    """The rear axle on a circle of 30 m to the right, at 8 m/s; without waypoints, the vehicle brakes."""
    lidar, angles = LIDAR.translation[0], np.arange(1, 7) * 4 / 30
    forward = 30 * np.sin(angles) + lidar * np.cos(angles) - lidar
    points = np.stack([30 * (1 - np.cos(angles)) + lidar * np.sin(angles), forward], axis=1)
    plan = Plan(MetaAction("KEEP", "RIGHT_TURN"), trajectory=points)
    with serving(lambda _: plan, TRAJECTORY) as address:
        turned = run(address, 20)
        client = Client(address)
        client.start()
        client.observe()
        poses = [entry.pose.vec for entry in client.stub.drive(client.drive()).trajectory.poses]
    assert len(poses) == 31
    assert (poses[-1].x, poses[-1].y) == pytest.approx((30 * np.sin(0.8), -30 * (1 - np.cos(0.8))), abs=0.3)
    assert turned.ego.poses[-1].yaw == pytest.approx(-19 * 0.8 / 30, abs=0.05)
    assert turned.speeds_mps[-1] == pytest.approx(8.0, abs=0.2)
    with serving(lambda _: Plan(MetaAction("KEEP", "STRAIGHT")), TRAJECTORY) as address:
        client = Client(address)
        client.start()
        client.observe()
        [after] = [
            e.pose.vec for e in client.stub.drive(client.drive()).trajectory.poses if e.timestamp_us == 1_000_000
        ]
    assert (after.x, after.y) == pytest.approx((8 - 3 / 2, 0), abs=0.01)


def test_the_model_sees_the_six_views_speed_and_command(package):
    seen = []

    def look(observation):
        seen.append((observation.speed, observation.command, observation.images()))
        return Plan(MetaAction("KEEP", "STRAIGHT"))

    angles = np.linspace(0, np.pi / 2, 9)
    turn = [(x, 0) for x in range(0, 8, 2)] + [(8 + 11 * np.sin(a), 11 * (np.cos(a) - 1)) for a in angles]
    with serving(look) as address:
        client = Client(address)
        client.start()
        client.stub.submit_route(client.route(turn))
        client.observe(speed=5.0)
        client.stub.drive(client.drive())
        client.stub.submit_egomotion_observation(client.pose(0.4, 100_000))  # a simulator that sends poses alone
        client.stub.drive(client.drive(100_000))
    (speed, command, images), (later, *_) = seen
    assert (speed, command) == (5.0, "turn right")
    assert later == pytest.approx(4.0)
    assert tuple(images) == VIEWS
    assert {image.size for image in images.values()} == {(32, 18)}
    assert np.array(images["front"])[-1].mean() < 120 < np.array(images["front"])[0].mean()  # road below, sky above


def test_bad_requests_are_answered_and_the_server_goes_on(package):
    with serving("KEEP, STRAIGHT") as address:
        client, nan = Client(address), float("nan")
        status, text = client.refusal("start_session", client.session("s", []), metadata=client.metadata)
        assert status == "FAILED_PRECONDITION"
        assert "no camera for the front view" in text
        five = Client(address, [view for view in VIEWS if view != "back left"])
        status, text = five.refusal("start_session", five.session(), metadata=five.metadata)
        assert "no camera for the back left view" in text
        assert "--cameras" in text
        twice = [cameras()[0].available_camera()] * 2
        bad_sessions = [("", None, "session_uuid"), ("s", twice, "'cam0' is declared more than once")]
        broken = cameras()[0].available_camera()
        broken.rig_to_camera.quat.w = nan
        for name, declared, words in [*bad_sessions, ("s", [broken], "camera 'cam0'")]:
            status, text = client.refusal("start_session", client.session(name, declared), metadata=client.metadata)
            assert (status, words in text) == ("INVALID_ARGUMENT", True)
        assert client.refusal("drive", client.drive()) == ("NOT_FOUND", "Unknown session s")
        assert client.refusal("submit_image_observation", client.image(data=b"x"))[0] == "NOT_FOUND"
        client.start()
        assert not client.stub.drive(client.drive()).trajectory.poses  # neither pose nor images yet: "hold"
        for call, request, words in (
            ("submit_image_observation", client.image(data=b"no image"), "'cam0' is not a JPEG or PNG file (8 bytes)"),
            ("submit_image_observation", client.image(data=b""), "'cam0' is not a JPEG or PNG file (0 bytes)"),
            ("submit_egomotion_observation", client.pose(nan), "the pose at 0 us"),
            ("submit_egomotion_observation", client.pose(speed=nan), "linear_velocity"),
            ("submit_route", client.route([(0, 0), (nan, 0)]), "waypoint 1 of the route"),
        ):
            status, text = client.refusal(call, request)
            assert (status, words in text) == ("INVALID_ARGUMENT", True), text
        client.observe()
        whole = client.image(3).camera_image.image_bytes
        client.stub.submit_image_observation(client.image(3, whole[:-60]))
        status, text = client.refusal("drive", client.drive())
        assert (status, "the image of camera 'cam3' is damaged" in text) == ("FAILED_PRECONDITION", True)
        client.observe(500_000)
        assert len(client.stub.drive(client.drive(500_000)).trajectory.poses) == 31
        status, text = client.refusal("drive", client.drive(1_700_000))
        assert (status, "camera 'cam0' (front view) has sent no image for 1.2 s" in text) == (
            "FAILED_PRECONDITION",
            True,
        )
        assert run(address, 2).steps == 2


def test_a_failure_of_the_model_is_answered_and_the_server_goes_on(package):
    answers = iter([RuntimeError("CUDA out of memory"), Plan(MetaAction("KEEP", "STRAIGHT"))])

    def fail(_):
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    with serving(fail) as address:
        client = Client(address)
        client.start()
        client.observe()
        assert "CUDA out of memory" in client.refusal("drive", client.drive())[1]
        assert len(client.stub.drive(client.drive()).trajectory.poses) == 31


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (("--simulator", "gazebo"), "--simulator gazebo"),
        (("--follow", "stars"), "--follow stars"),
        (("--port", "65536"), "--port 65536"),
        (("--cameras", "roof=cam"), "--cameras"),
        (("--decision", "best"), "--decision best"),
        (("--device", "toaster"), "--device toaster"),
        (("--model", "no/such/folder"), "no/such/folder"),
        (("--host", "no.such.host.invalid"), "--host no.such.host.invalid"),
    ],
)
def test_wrong_flags_are_refused_before_the_model_is_loaded(package, planner, more, word, capsys):
    assert cli(["drive-server", "--model", str(planner), "--port", "0", *more]) == 2
    out, error = capsys.readouterr()
    assert word in error
    assert "->" in error
    assert "loading" not in out


def test_a_busy_port_is_refused_before_the_model_is_loaded(package, planner, capsys):
    with serving("KEEP, STRAIGHT") as address, socket.create_server(("127.0.0.1", 0)) as other:
        for port in (address.split(":")[1], other.getsockname()[1]):
            assert cli(["drive-server", "--model", str(planner), "--port", str(port)]) == 2
            out, error = capsys.readouterr()
            assert f"--port {port} cannot be used" in error
            assert "loading" not in out


def test_without_the_package_the_command_says_how_to_install_it(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None)
    assert cli(["drive-server", "--model", "x"]) == 2
    assert "pip install -c constraints.txt -e '.[simulators]'" in capsys.readouterr().err

"""Frames of six images, and `senna demo` as a user starts it."""

import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path

from PIL import Image

from senna.templates import load_templates
from senna.views import VIEWS, image_block
from tests.helpers.paths import REPOSITORY

PLANS = [
    ("KEEP, STRAIGHT", "go straight", 3.1),
    ("STOP, STRAIGHT", "turn left", 0.0),
    ("ACCELERATE, LEFT_TURN", "go straight and turn left", 7.5),
]


def write_frames(folder: Path, count: int = 3) -> Path:
    """Write plan records of ``count`` frames, with images in a different colour for each view and frame."""
    plan, lines = load_templates()["plan"]["question"], []
    for frame in range(count):
        names = [f"samples/CAM_{view.upper().replace(' ', '_')}/{frame}.jpg" for view in VIEWS]
        for position, name in enumerate(names):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (160, 90), (40 * position, 200 - 30 * position, (90 * frame) % 256)).save(folder / name)
        answer, command, speed = PLANS[frame % len(PLANS)]
        turns = [
            {"from": "human", "value": image_block() + plan.format(command=command, speed=f"{speed:.1f} m/s")},
            {"from": "gpt", "value": f"{answer}\n"},
        ]
        record = {"id": f"{frame}-plan", "kind": "plan", "token": str(frame), "image": names[0], "images": names}
        lines.append(json.dumps({**record, "conversations": turns}))
    (folder / "records.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "records.jsonl"


class Server:
    """`senna demo` in a process of its own, with its files in ``temporary``; ``log`` is its output."""

    def __init__(self, temporary: Path, *arguments: object) -> None:
        self.temporary = temporary
        own = {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(REPOSITORY),
            "CUDA_VISIBLE_DEVICES": "",
            "TMPDIR": str(temporary),
        }
        environment = {**os.environ, **own}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "senna", "demo", "--port", "0", *map(str, arguments)],
            env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=REPOSITORY,
        )  # fmt: skip
        self.lines: list[str] = []
        addresses: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, args=(addresses,), daemon=True).start()
        try:
            self.url = addresses.get(timeout=120)
        except queue.Empty:
            self.process.kill()
            raise AssertionError(f"no address was printed: {self.log}") from None

    def _read(self, addresses: "queue.Queue[str]") -> None:
        for line in self.process.stdout:
            self.lines.append(line)
            if line.startswith("http://"):
                addresses.put(line.split()[0])

    @property
    def log(self) -> str:
        return "".join(self.lines)

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(timeout=30)

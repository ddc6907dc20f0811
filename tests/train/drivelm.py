"""DriveLM's questions on nuScenes key frames as records of ours: for tests on real images."""

import json
import sys
from pathlib import Path

from senna.records import write_records
from senna.views import image_block


def convert(source: Path, target: Path, questions_a_frame: int | None = None) -> int:
    """Write ``target`` (JSON Lines) from DriveLM's JSON; image paths start at the folder that holds ``samples``."""
    records = []
    for scene, values in json.loads(source.read_text(encoding="utf-8")).items():
        for token, frame in values["key_frames"].items():
            # DriveLM names cameras in an order of its own, which the data set mends.
            images = [path[path.index("samples/") :] for path in frame["image_paths"].values()]
            asked = [(kind, qa["Q"], qa["A"]) for kind, qas in frame["QA"].items() for qa in qas]
            for number, (kind, question, answer) in enumerate(asked[:questions_a_frame]):
                turns = [{"from": "human", "value": image_block() + question}, {"from": "gpt", "value": answer}]
                records.append({
                    "id": f"{token}-{number}", "token": token, "scene_token": scene, "image": images[0], "images": images,
                    "kind": kind, "conversations": turns,
                })  # fmt: skip
    return write_records(target, records)


if __name__ == "__main__":
    print(convert(Path(sys.argv[1]), Path(sys.argv[2])), "records")

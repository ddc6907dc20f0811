"""Convert DriveLM's questions about nuScenes key frames to Senna records, for tests on real images."""

import json
import sys
from pathlib import Path

from senna.records import write_records
from senna.views import image_block


def convert(source: Path, target: Path, questions_a_frame: int | None = None) -> int:
    """Write a file of records (JSON Lines) from DriveLM's JSON, and return their number.

    Image paths are relative to the folder that holds ``samples``.
    """
    records = []
    for scene, values in json.loads(source.read_text(encoding="utf-8")).items():
        for token, frame in values["key_frames"].items():
            # DriveLM has its own order of cameras; the dataset sorts images by camera.
            images = [path[path.index("samples/") :] for path in frame["image_paths"].values()]
            questions = [(kind, qa["Q"], qa["A"]) for kind, qas in frame["QA"].items() for qa in qas]
            for number, (kind, question, answer) in enumerate(questions[:questions_a_frame]):
                turns = [{"from": "human", "value": image_block() + question}, {"from": "gpt", "value": answer}]
                records.append({
                    "id": f"{token}-{number}", "token": token, "scene_token": scene, "image": images[0], "images": images,
                    "kind": kind, "conversations": turns,
                })  # fmt: skip
    return write_records(target, records)


if __name__ == "__main__":
    print(convert(Path(sys.argv[1]), Path(sys.argv[2])), "records")

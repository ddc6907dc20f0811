"""Captions, the folder of pictures, and the labels of patches."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from senna.errors import SennaError, UsageError
from senna.synthetic import write_road_pictures
from senna.synthetic.folders import make_whole, needs_making
from senna.synthetic.render.scene import BODY_COLOURS, VEHICLE_KINDS, Scene, TrafficLight, Vehicle
from senna.synthetic.tiny.captions import FORMS, caption, facts_of, sample_facts
from senna.synthetic.tiny.patch_labels import COLOURS, label_patches
from senna.synthetic.tiny.road_images import scene_of
from senna.synthetic.tiny.road_scenes import LANES, front_camera, sample_scene
from senna.synthetic.workers import worker_lines


def read(path: Path) -> list[dict]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_road_pictures(tmp_path_factory.mktemp("road") / "pictures", count=5, seed=3)


def test_a_caption_says_everything_that_the_scene_has_and_nothing_else():
    rng = np.random.default_rng(0)
    for _ in range(200):
        scene = sample_scene(rng)
        text = caption(facts_of(scene), rng)
        words = re.findall(r"[a-z]+", text.lower())
        colours = [w for w in words if w in BODY_COLOURS]
        assert sorted(w for w in words if w in VEHICLE_KINDS) == sorted(v.kind for v in scene.vehicles)
        lamps = [t.state for t in scene.lights]
        assert sorted(colours) == sorted([v.colour for v in scene.vehicles] + lamps)
        assert ("no traffic light" in text) == (not lamps)
        for lane, phrase in (
            ("left", "in the left lane"),
            ("middle", "straight ahead"),
            ("right", "in the right lane"),
        ):
            assert (phrase in text) == any(abs(v.y - LANES[lane]) < 1 for v in scene.vehicles)
        far = sum(v.x - v.size[0] / 2 > 15 for v in scene.vehicles)
        assert (text.count("far away"), text.count("close by")) == (far, len(scene.vehicles) - far)
        assert {"clear": "clear", "overcast": "overcast", "dusk": "dusk", "night": "night"}[scene.sky] in words


def test_a_known_scene_has_the_expected_caption():
    vehicles = (Vehicle("car", "blue", 24, -3.5), Vehicle("truck", "red", 14, 3.5))
    scene = Scene(sky="night", vehicles=vehicles, lights=(TrafficLight(18, -6, "green", reach=6),))
    says = {caption(facts_of(scene), np.random.default_rng(seed)) for seed in range(40)}
    assert len(says) == len(FORMS)
    assert (
        "A red truck is close by in the left lane and a blue car is far away in the right lane, "
        "the traffic light is green, in the dark of night." in says
    )


def test_facts_without_a_scene_are_as_varied_as_those_of_scenes():
    rng = np.random.default_rng(1)
    free, drawn = (
        [make() for _ in range(600)] for make in (lambda: sample_facts(rng), lambda: facts_of(sample_scene(rng)))
    )
    for of in (lambda f: f.sky, lambda f: f.light, lambda f: len(f.vehicles), lambda f: f.vehicles[0].lane):
        assert {of(f) for f in free} == {of(f) for f in drawn}
    assert all(
        [v.lane for v in f.vehicles] == sorted((v.lane for v in f.vehicles), key=list(LANES).index) for f in free
    )


def test_records_have_the_form_of_llava_pretrain(drawn: Path):
    records = read(drawn)
    assert len(records) == 5
    for index, record in enumerate(records):
        assert set(record) == {"id", "image", "conversations"}
        human, gpt = record["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert human["value"].count("<image>") == 1
        assert "<image>" not in gpt["value"]
        with Image.open(drawn.parent / "images" / record["image"]) as picture:
            assert (picture.format, picture.size, picture.mode) == ("JPEG", (224, 224), "RGB")
        scene, _ = scene_of(3, index)
        assert all(v.kind in gpt["value"] and v.colour in gpt["value"] for v in scene.vehicles)


def test_the_same_seed_draws_the_same_files_and_another_seed_others(drawn: Path, tmp_path: Path):
    again = write_road_pictures(tmp_path / "again", count=5, seed=3)
    other = write_road_pictures(tmp_path / "other", count=5, seed=4)
    for path in sorted(drawn.parent.rglob("*")):
        if path.is_file():
            assert (again.parent / path.relative_to(drawn.parent)).read_bytes() == path.read_bytes()
    assert {r["conversations"][1]["value"] for r in read(other)} != {
        r["conversations"][1]["value"] for r in read(drawn)
    }


def test_a_complete_folder_is_left_alone_and_another_count_draws_anew(tmp_path: Path):
    captions = write_road_pictures(tmp_path / "p", count=2, seed=0)
    before = captions.stat().st_mtime_ns
    assert write_road_pictures(tmp_path / "p", count=2, seed=0).stat().st_mtime_ns == before
    assert len(read(write_road_pictures(tmp_path / "p", count=3, seed=0))) == 3


def test_an_interrupted_making_is_not_taken_for_complete(tmp_path: Path):
    def stop_half_way(place: Path) -> None:
        (place / "half").write_text("half")
        raise KeyboardInterrupt

    recipe = {"seed": 1}
    with pytest.raises(KeyboardInterrupt):
        make_whole(tmp_path / "thing", recipe, stop_half_way)
    assert needs_making(tmp_path / "thing", recipe)
    make_whole(tmp_path / "thing", recipe, lambda place: (place / "whole").write_text("whole"))
    assert not needs_making(tmp_path / "thing", recipe)
    assert sorted(p.name for p in (tmp_path / "thing").iterdir()) == ["complete.json", "whole"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thing"]


def test_a_folder_that_holds_something_else_is_refused_and_kept(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(UsageError, match=re.escape(str(tmp_path))):
        write_road_pictures(tmp_path, count=1, seed=0)
    with pytest.raises(UsageError, match="not a folder"):
        write_road_pictures(tmp_path / "mine.txt", count=1, seed=0)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_a_worker_that_fails_is_told_with_its_own_message(tmp_path: Path):
    with pytest.raises(SennaError, match=r"(?s)ended early.*nowhere"):
        list(worker_lines("senna.synthetic.tiny.road_images", [str(tmp_path / "nowhere"), "0"], 2))


def test_patches_are_labelled_with_the_vehicle_that_covers_them():
    camera = front_camera(160)
    scene = Scene(sky="dusk", vehicles=(Vehicle("bus", "red", 18, 3.5), Vehicle("car", "blue", 12, -3.5)))
    labels = label_patches(scene, camera, 16)
    kinds = labels.classes[0].reshape(10, 10)
    assert set(kinds[:, :4].ravel()) == {0, 1 + VEHICLE_KINDS.index("bus")}
    assert set(kinds[:, 6:].ravel()) == {0, 1 + VEHICLE_KINDS.index("car")}
    assert set(labels.classes[1]) == {0, 1 + COLOURS.index("red"), 1 + COLOURS.index("blue")}
    assert labels.classes[3].max() == 0
    assert (labels.weights[0][labels.classes[0] > 0] > 0.1).all()


def test_drawing_needs_no_torch():
    code = "import sys, senna.synthetic; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

"""From the variables of the published scripts to the words of a command."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from senna.convert.scenes import split_off_dev
from senna.errors import UsageError
from senna.launch import tiny_preset
from senna.launch.command import ROOT, prepare
from senna.synthetic import scene_names
from senna.synthetic.world.scenarios import MANEUVERS

GIVEN = {"MODEL_PATH": "m", "DATA": "d.json", "CUDA_VISIBLE_DEVICES": "0"}


def flags_of(words):
    """Return flag -> value of the words after the command's name, the last value where a flag is repeated."""
    pairs = words[words.index("senna") + 2 :]
    return {flag: value for flag, value in pairwise(pairs) if flag.startswith("--")}


@pytest.mark.parametrize(
    ("recipe", "flags", "configs", "output"),
    [
        ("pretrain", [], ["stage1_pretrain.yaml"], "stage1"),
        ("full", [], ["stage2_driving.yaml"], "stage2"),
        ("full", ["--stage=3"], ["stage3_planning.yaml"], "stage3"),
        ("lora", ["--stage", "3"], ["stage3_planning.yaml", "lora.yaml"], "stage3_lora"),
        ("qlora", [], ["stage2_driving.yaml", "qlora.yaml"], "stage2_qlora"),
    ],
)
def test_a_recipe_chooses_config_files_and_output_folder(recipe, flags, configs, output):
    words = prepare(recipe, flags, GIVEN).words
    chosen = [value for flag, value in pairwise(words) if flag == "--config"]
    assert chosen == [str(ROOT / "configs" / name) for name in configs]
    assert flags_of(words)["--output_dir"] == str(ROOT / "outputs" / output)
    assert words[-len(flags) :] == flags or not flags


def test_variables_become_flags_and_given_flags_come_last_so_that_they_win():
    given = {**GIVEN, "IMAGE_DATA": "i", "VISION_TOWER": "t", "OUT_DIR": "o"}
    words = prepare("full", ["--data_path", "other.json"], given).words
    flags = flags_of(words)
    assert (flags["--model_name_or_path"], flags["--image_folder"], flags["--vision_tower"]) == ("m", "i", "t")
    assert flags["--output_dir"] == "o"
    assert flags["--data_path"] == "other.json"
    assert words.index("d.json") < words.index("other.json")


@pytest.mark.parametrize(("recipe", "zero"), [("pretrain", 2), ("full", 3), ("lora", 3), ("qlora", 2)])
def test_several_gpus_train_under_the_zero_stage_of_the_recipe(recipe, zero):
    assert "--deepspeed" not in prepare(recipe, [], GIVEN).words
    words = prepare(recipe, [], {**GIVEN, "NUM_GPUS": "2"}).words
    assert flags_of(words)["--deepspeed"] == str(ROOT / "configs" / "deepspeed" / f"zero{zero}.json")
    chosen = prepare(recipe, [], {**GIVEN, "DEEPSPEED_CONFIG": "mine.json"}).words
    assert flags_of(chosen)["--deepspeed"] == "mine.json"
    assert "senna.launch.torchrun" not in chosen


@pytest.mark.parametrize(
    ("recipe", "environment", "named"),
    [
        ("full", {"PRESET": "huge"}, "PRESET=huge"),
        ("pretrain", {"NUM_GPUS": "1"}, "MODEL_PATH is not set"),
        ("pretrain", {"NUM_GPUS": "1", "MODEL_PATH": "a"}, "DATA is not set"),
        ("evaluate", {}, "MODEL_PATH is not set"),
        ("visualize", {}, "DATA is not set"),
        ("convert", {}, "NUSCENES is not set"),
        ("unknown", {}, "unknown recipe"),
    ],
)
def test_a_missing_variable_is_named_with_what_to_set_it_to(recipe, environment, named):
    with pytest.raises(UsageError, match=named) as error:
        prepare(recipe, [], environment)
    assert error.value.remedy


def test_without_a_gpu_the_message_names_both_remedies():
    with pytest.raises(UsageError, match="No GPU found") as error:
        prepare("full", [], {"MODEL_PATH": "m", "DATA": "d", "CUDA_VISIBLE_DEVICES": ""})
    assert "NUM_GPUS=N" in error.value.remedy
    assert "PRESET=tiny" in error.value.remedy


def test_the_driving_recipes_refuse_stage_1():
    with pytest.raises(UsageError, match="--stage 1") as error:
        prepare("full", ["--stage", "1"], GIVEN)
    assert "pretrain_senna_llava.sh" in error.value.remedy


@pytest.mark.parametrize("question", ["--print", "--help"])
def test_a_question_needs_no_gpu_and_no_inputs_and_starts_one_process(question):
    words = prepare("full", [question], {"NUM_GPUS": "8", "CUDA_VISIBLE_DEVICES": ""}).words
    assert "senna.launch.torchrun" not in words
    assert flags_of(words)["--deepspeed"].endswith("zero3.json")
    assert "--model_name_or_path" not in words


@pytest.fixture
def made(monkeypatch):
    """Record the commands that the tiny preset would run to make models and data."""
    commands = []
    monkeypatch.setattr(tiny_preset, "_run", lambda *words: commands.append([str(word) for word in words]))
    return commands


def test_an_installation_without_the_repository_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("senna.launch.command.ROOT", tmp_path)
    with pytest.raises(UsageError, match="needs the repository"):
        prepare("full", ["--print"], {})


def test_the_tiny_preset_creates_the_inputs_that_are_not_given(made, tmp_path, monkeypatch):
    monkeypatch.setattr("senna.launch.command.ROOT", tmp_path)
    (tmp_path / "configs").mkdir()
    command = prepare("pretrain", [], {"PRESET": "tiny", "CUDA_VISIBLE_DEVICES": ""})
    flags = flags_of(command.words)
    embedded = tmp_path / "outputs" / "embedded"
    assert [words[0] for words in made] == ["synthesize"]
    assert flags["--model_name_or_path"] == str(embedded / "llm")
    assert flags["--data_path"] == str(embedded / "pictures" / "captions.json")
    assert (flags["--vision_tower"], flags["--mm_adapter_tokens"]) == (str(embedded / "clip"), "16")
    assert command.environment == {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "1"}
    made.clear()
    flags = flags_of(prepare("full", [], {"PRESET": "tiny"}).words)
    assert [words[0] for words in made] == ["synthesize", "synthesize", "convert"]
    assert made[2][-4:] == ["--dev-scenes", "5", "--out", str(embedded / "qa")]
    assert flags["--data_path"] == f"{embedded}/qa/senna_nusc_train.jsonl:0.0625"
    assert "--eval_data_path" not in flags
    flags = flags_of(prepare("full", ["--stage", "3"], {"PRESET": "tiny"}).words)
    assert flags["--eval_data_path"] == f"{embedded}/qa/senna_nusc_val.jsonl"


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_the_tiny_preset_trains_in_up_to_two_processes_without_deepspeed(made, cores, monkeypatch):
    monkeypatch.setattr(tiny_preset, "available_cores", lambda: cores)
    given = {"PRESET": "tiny", "DATA": "d", "MODEL_PATH": "m"}
    words = prepare("full", [], given).words
    assert ("senna.launch.torchrun" in words) == (cores > 1)
    if cores > 1:
        assert words[words.index("--nproc_per_node") + 1] == "2"
    assert "--deepspeed" not in words
    for named in ({"DEEPSPEED_CONFIG": "zero2.json"}, {"NUM_GPUS": "2"}):
        assert "--deepspeed" in prepare("full", [], {**given, **named}).words


def test_the_quickstart_makes_what_the_tiny_preset_needs(made, tmp_path, monkeypatch):
    """Otherwise the stages would make it again."""
    root = Path(__file__).parents[2]
    [line] = [text for text in (root / "scripts" / "quickstart.sh").read_text().splitlines() if " synthesize " in text]
    monkeypatch.setattr("senna.launch.command.ROOT", tmp_path)
    (tmp_path / "configs").mkdir()
    prepare("full", [], {"PRESET": "tiny"})
    [words] = [words for words in made if "--scenes" in words]
    for flag in ("--scenes", "--image-width"):
        assert f"{flag} {words[words.index(flag) + 1]} " in line
    assert "--stage1" in line


def test_the_scenes_that_the_tiny_preset_calibrates_on_have_a_change_of_lanes():
    splits = pytest.importorskip("nuscenes.utils.splits", reason="nuscenes-devkit is not installed")
    names = scene_names(tiny_preset.SCENES, mini=False)
    parts = {"train": [name for name in names if name in splits.train]}
    dev = split_off_dev(parts, tiny_preset.DEV_SCENES)["dev"]
    assert "overtake" in [MANEUVERS[names.index(name) % len(MANEUVERS)] for name in dev]


def test_the_tiny_preset_continues_from_the_stage_before(made, tmp_path, monkeypatch):
    monkeypatch.setattr("senna.launch.command.ROOT", tmp_path)
    (tmp_path / "configs").mkdir()
    for name in ("stage1", "stage2_lora"):
        (tmp_path / "outputs" / name).mkdir(parents=True)
        config = json.dumps({"mm_vision_tower": "clip"})
        (tmp_path / "outputs" / name / "config.json").write_text(config)
    given = {"PRESET": "tiny", "DATA": "d", "NUM_GPUS": "1"}
    for flags, before in ([], "stage1"), (["--stage", "3"], "stage2_lora"):
        found = flags_of(prepare("full", flags, given).words)
        assert found["--model_name_or_path"] == str(tmp_path / "outputs" / before)
        assert "--vision_tower" not in found
        assert "--eval_data_path" not in found  # the data are the user's
    assert made == []


def test_a_question_under_the_tiny_preset_makes_nothing(made):
    prepare("full", ["--print"], {"PRESET": "tiny"})
    assert made == []


@pytest.mark.parametrize("flags", [["--max_restarts", "3"], ["--max-restarts=3"], []])
def test_restarts_are_a_variable_and_a_flag_of_the_training_recipes(flags):
    environment = GIVEN if flags else {**GIVEN, "MAX_RESTARTS": "3"}
    words = prepare("full", [*flags, "--seed", "1"], environment).words
    assert words[2:6] == ["senna.launch.torchrun", "--standalone", "--max_restarts", "3"]
    assert words[-2:] == ["--seed", "1"]
    assert not [word for word in words[words.index("senna") :] if "restarts" in word]
    assert "senna.launch.torchrun" not in prepare("evaluate", [], {**GIVEN, "MAX_RESTARTS": "3"}).words


def test_a_flag_of_restarts_without_a_number_is_refused():
    with pytest.raises(UsageError, match="--max_restarts has no value"):
        prepare("full", ["--max_restarts"], GIVEN)


def test_other_recipes_take_their_variables_and_flags():
    evaluate = flags_of(prepare("evaluate", ["--limit", "3"], {**GIVEN, "TRAIN_DATA": "t"}).words)
    assert (evaluate["--model"], evaluate["--data"], evaluate["--train-data"], evaluate["--limit"]) == (
        "m",
        "d.json",
        "t",
        "3",
    )
    convert = flags_of(prepare("convert", [], {"NUSCENES": "n", "CANBUS": "c", "VERSION": "v1.0-mini"}).words)
    assert (convert["--nuscenes"], convert["--canbus"], convert["--version"]) == ("n", "c", "v1.0-mini")
    visualize = flags_of(prepare("visualize", ["--predictions", "p"], {"DATA": "d", "NNODES": "4"}).words)
    assert (visualize["--data"], visualize["--predictions"]) == ("d", "p")

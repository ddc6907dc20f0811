"""scripts/benchmark.py, each subcommand as users run it, small; and that what it compares is the same."""

import importlib
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from senna.data import Collator, PackCollator
from senna.evaluate.score import AnswerEncoder
from senna.model.tokenizer import load_tokenizer
from senna.synthetic import write_world
from tests.conftest import REPOSITORY
from tests.forks import Run

SMALL = "--hidden 32 --layers 1 --image-size 28 --view-tokens 4 --vocabulary 320 --threads 1 --repeats 1".split()
PNG = b"\x89PNG\r\n\x1a\n"


def run_script(arguments):
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    return importlib.import_module("benchmark").main(arguments)


def benchmark(*flags, code=0):
    """Run it in a process of its own; returns what it printed to stdout, or to stderr where it fails."""
    result = Run(run_script, [str(flag) for flag in flags], REPOSITORY).result()
    assert result.returncode == code, result.stderr
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return write_world(tmp_path_factory.mktemp("world") / "nuscenes", 1, mini=True, frames=8)


@pytest.fixture(scope="module")
def modules():
    """The modules behind the subcommands."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    names = ("common", "models", "packing", "published", "synthetic", "train")
    yield SimpleNamespace(**{name: importlib.import_module(f"benchmarks.{name}") for name in names})
    sys.path.remove(str(REPOSITORY / "scripts"))


@pytest.fixture
def small(modules):
    sizes = dict(hidden=32, layers=1, image_size=28, view_tokens=4, vocabulary=320)
    return modules.models.Geometry.of(SimpleNamespace(**sizes))


def test_images_names_the_decoders_and_their_speed(world, tmp_path):
    chart = tmp_path / "charts" / "images.png"
    flags = ["--images", world / "samples", "--count", 2, "--repeats", 1, "--json", "--chart", chart]
    figures = json.loads(benchmark("images", *flags).splitlines()[-1])
    assert figures["ways"]["exact"]["floats_equal"]
    assert figures["ways"]["fast"]["ratio"] > 1
    assert chart.read_bytes().startswith(PNG)


def test_convert_finds_the_facts_that_the_devkit_gives_box_by_box(shared_golden, tmp_path):
    chart = tmp_path / "convert.png"
    flags = ["--nuscenes", shared_golden / "synthetic_nuscenes", "--repeats", 1, "--json", "--chart", chart]
    figures = json.loads(benchmark("convert", *flags).splitlines()[-1])
    assert figures["frames"] == 49
    assert figures["objects"] > 400
    assert figures["differ"] == 0
    assert figures["ways"]["senna convert"]["ratio"] > 1
    assert chart.read_bytes().startswith(PNG)


def test_packing_is_compared_in_each_precision_with_the_same_gradient(tmp_path):
    chart = tmp_path / "packing.png"
    figures = json.loads(benchmark("packing", *SMALL, "--json", "--chart", chart).splitlines()[-1])
    assert figures["max_relative_gradient_difference"] < 1e-4
    assert figures["max_relative_gradient_difference_dense"] < 1e-4
    ways = figures["ways"]
    split, unpacked = ways["packed (split), fp32"], ways["unpacked, fp32"]
    assert figures["speedup"] == pytest.approx(unpacked["ms"] / split["ms"])
    assert (figures["speedup_bf16"] is not None) == ("packed (split), bf16" in ways)
    # 13 questions over 101 text tokens and 6 views of 4 tokens; those behind the last view, 2 of them shared, are 2,546
    assert (unpacked["tokens"], split["tokens"]) == (13 * (101 + 24) + 2546, 101 + 24 + 2546 - 12 * 2)
    for ways in figures["stage1"].values():
        assert ways["packed (split)"]["max_relative_gradient_difference"] < 1e-4
    assert figures["stage1_speedup"] > 0
    assert figures["stage1_speedup_128"] > 0
    assert chart.read_bytes().startswith(PNG)


def test_train_names_the_precision_of_each_baseline(world, tmp_path):
    chart = tmp_path / "train.png"
    flags = ["--nuscenes", world, *SMALL, "--json", "--chart", chart]
    figures = json.loads(benchmark("train", *flags).splitlines()[-1])
    assert figures["loss_difference"] < 1e-4
    ways = figures["ways"]
    assert {"as published, fp32", "unpacked, fp32", "packed, fp32"} <= ways.keys()
    assert ways["as published, fp32"]["ratio_to_published_fp32"] == 1
    for of_way in ways.values():
        assert ("ratio_to_published_bf16" in of_way) == ("as published, bf16" in ways)
    assert chart.read_bytes().startswith(PNG)


def test_without_bf16_the_figures_are_of_fp32_alone(modules, small, monkeypatch, capsys):
    monkeypatch.setattr(modules.models, "BF16_FLAGS", set())
    assert modules.models.precisions_here() == ["fp32"]
    assert "fp32 only" in capsys.readouterr().out
    figures = modules.packing.time_driving(small, ["fp32"], 1)
    assert figures["speedup_bf16"] is None
    assert not [way for way in figures["ways"] if "bf16" in way]


def test_the_frame_is_as_long_as_the_real_one_that_its_comment_names(modules):
    # The lengths do not depend on the model's: these are of the real geometry but the images, which are not looked at.
    real = modules.models.Geometry(image_size=28)
    generator = torch.Generator().manual_seed(0)
    item = modules.synthetic.frame(real, torch.zeros(6, 3, 28, 28), generator)
    unpacked = Collator(0, 2048, 128)(modules.synthetic.one_by_one([item]))
    packed = PackCollator(0, 2048, 128, 4096)([item])
    assert (unpacked["counts"].tokens, packed["counts"].tokens) == (13_843, 3_391)
    assert packed["layout"][0].prefix == 871
    assert sum(modules.synthetic.DRAWN_CAPTIONS.values()) == 1536
    assert sum(modules.synthetic.REAL_CAPTIONS.values()) == 610


def test_evaluate_scores_in_one_forward_what_separate_forwards_give(tmp_path):
    chart = tmp_path / "evaluate.png"
    figures = json.loads(benchmark("evaluate", *SMALL, "--json", "--chart", chart).splitlines()[-1])
    assert figures["max_difference_log_prob"] < 1e-4
    assert figures["speedup"] > 0
    assert chart.read_bytes().startswith(PNG)


def test_the_plans_of_the_benchmark_are_cut_as_vicunas_tokenizer_cuts_them(modules, shared_golden):
    tokenizer = load_tokenizer(str(shared_golden / "vicuna_tokenizer"), 2048)
    ours, real = modules.synthetic.answers(), AnswerEncoder(tokenizer)([{"from": "human", "value": "Plan?"}])["answers"]
    assert [len(answer) for answer in ours] == [len(answer) for answer in real]
    assert len({answer[:depth] for answer in ours for depth in range(13)}) == len(
        {answer[:depth] for answer in real for depth in range(13)}
    )


def test_the_published_way_gives_our_gradient(modules, small):
    generator = torch.Generator().manual_seed(0)
    item = modules.synthetic.frame(small, modules.models.pictures(6, small, generator), generator)
    samples = modules.synthetic.one_by_one([item])[:3]
    gradients = []
    for attention in ("sdpa", "eager"):
        model = modules.models.build(small, "fp32", stage=2)
        modules.models.set_attention(model, attention)
        batch = Collator(0, 2048, small.view_tokens)(samples)
        theirs = modules.published.collate(samples, 0)
        ours = attention == "sdpa"
        loss = model(**modules.models.model_inputs(batch)).loss if ours else modules.published.loss_of(model, theirs)
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.requires_grad})
    assert modules.packing.largest_difference(*gradients) < 1e-4


def test_ratios_are_medians_over_items_of_ratios_of_medians(modules):
    seconds = {"old": {"a": [4.0, 9.0, 5.0], "b": [2.0]}, "new": {"a": [1.0], "b": [2.0, 1.0, 1.0]}}
    summary = modules.common.summarise(seconds, "old")
    assert summary["old"] == {"ms": 3500, "per_second": 1 / 3.5, "ratio": 1}
    assert summary["new"]["ratio"] == (5 / 1 + 2 / 1) / 2


def test_help_does_not_wait_for_torch_and_a_chart_is_a_png():
    code = (
        "import sys\nsys.argv = ['benchmark.py', '--help']\nsys.path.insert(0, 'scripts')\nimport benchmark\n"
        "try: benchmark.main()\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'transformers'} & set(sys.modules)\nassert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert "packing" in result.stdout
    command = [sys.executable, REPOSITORY / "scripts" / "benchmark.py", "packing", "--chart", "speed.jpg"]
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert result.returncode == 2
    assert "--chart speed.jpg: the chart is a PNG" in result.stderr

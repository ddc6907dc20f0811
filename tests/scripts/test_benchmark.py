"""scripts/benchmark.py: each subcommand with small sizes, and the equality of the results that it compares."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from senna.data import Collator, PackCollator
from senna.errors import UsageError
from senna.synthetic import write_world
from tests.helpers.forks import Run
from tests.helpers.paths import REPOSITORY

SMALL = "--hidden 32 --layers 1 --image-size 28 --view-tokens 4 --vocabulary 320 --threads 1 --repeats 1".split()
PNG = b"\x89PNG\r\n\x1a\n"


def run_script(arguments):
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    importlib.import_module("benchmarks.images").BATCHES = 4
    return importlib.import_module("benchmark").main(arguments)


def benchmark(*flags, code=0):
    """Run the script in its own process and return its stdout, or its stderr if the exit code is not 0."""
    result = Run(run_script, [str(flag) for flag in flags], REPOSITORY).result()
    assert result.returncode == code, result.stderr
    return result.stderr if code else result.stdout


@pytest.fixture(scope="module")
def world(once):
    return once("benchmark-world", lambda folder: write_world(folder / "nuscenes", 1, mini=True, frames=8)) / "nuscenes"


@pytest.fixture(scope="module")
def modules():
    """Return the modules of the subcommands."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    names = ("common", "evaluate", "models", "packing", "published", "ray", "synthetic", "train")
    yield SimpleNamespace(**{name: importlib.import_module(f"benchmarks.{name}") for name in names})
    sys.path.remove(str(REPOSITORY / "scripts"))


@pytest.fixture
def small(modules):
    sizes = dict(hidden=32, layers=1, image_size=28, view_tokens=4, vocabulary=320)
    return modules.models.Geometry.from_arguments(SimpleNamespace(**sizes))


def test_images_compares_the_decoders(world, tmp_path):
    chart = tmp_path / "charts" / "images.png"
    flags = ["--images", world / "samples", "--count", 2, "--repeats", 1, "--json", "--chart", chart]
    figures = json.loads(benchmark("images", *flags).splitlines()[-1])
    assert figures["ways"]["exact"]["floats_equal"]
    assert figures["ways"]["fast"]["ratio"] > 1
    batches = figures["batches"]
    assert batches["float32"]["bytes"] == 4 * batches["uint8"]["bytes"] == 4 * 48 * 3 * 336 * 336
    assert batches["uint8"]["ratio"] > 1
    assert chart.read_bytes().startswith(PNG)


def convert_figures(root, *flags):
    return json.loads(benchmark("convert", "--nuscenes", root, "--repeats", 1, "--json", *flags).splitlines()[-1])


def test_convert_gives_the_facts_of_the_devkit(world, tmp_path):
    chart = tmp_path / "convert.png"
    figures = convert_figures(world, "--chart", chart)
    assert figures["frames"] == 8
    assert figures["objects"] > 50
    assert figures["differ"] == 0
    assert figures["ways"]["senna convert"]["ratio"] > 1
    assert chart.read_bytes().startswith(PNG)


def test_convert_gives_the_facts_of_the_devkit_for_48_frames_with_hidden_objects(drawn_world, tmp_path):
    root = shutil.copytree(drawn_world, tmp_path / "nuscenes")
    table = root / "v1.0-mini" / "sample_annotation.json"
    rows = json.loads(table.read_text())
    for row in rows[::5]:  # no sensor sees these objects
        row["num_lidar_pts"] = row["num_radar_pts"] = 0
    table.write_text(json.dumps(rows))
    figures = convert_figures(root)
    assert figures["frames"] == 48
    assert 400 < figures["objects"] < len(rows)
    assert figures["differ"] == 0
    assert figures["ways"]["senna convert"]["ratio"] > 1


def test_the_rate_of_captioners_starts_when_all_are_busy(modules):
    server = modules.ray.SlowServer(2, answered=[1.0, 2.0, 3.0, 4.0, 5.0], all_busy=2.5)
    assert server.rate() == 3 / (5.0 - 2.5)
    with pytest.raises(UsageError, match="2 captioners never had a question each"):
        modules.ray.SlowServer(2, answered=[1.0]).rate()


def test_packing_gives_the_gradient_of_unpacked_batches(tmp_path):
    chart = tmp_path / "packing.png"
    figures = json.loads(benchmark("packing", *SMALL, "--json", "--chart", chart).splitlines()[-1])
    assert figures["max_relative_gradient_difference"] < 1e-4
    assert figures["max_relative_gradient_difference_dense"] < 1e-4
    ways = figures["ways"]
    split, unpacked = ways["packed (split), fp32"], ways["unpacked, fp32"]
    assert figures["speedup"] == pytest.approx(unpacked["ms"] / split["ms"])
    assert (figures["speedup_bf16"] is not None) == ("packed (split), bf16" in ways)
    # 13 questions share 101 text tokens, 6 views of 4 tokens and 2 of the 2,546 tokens after the last view
    assert (unpacked["tokens"], split["tokens"]) == (13 * (101 + 24) + 2546, 101 + 24 + 2546 - 12 * 2)
    for ways in figures["stage1"].values():
        assert ways["packed (split)"]["max_relative_gradient_difference"] < 1e-4
    assert figures["stage1_speedup"] > 0
    assert figures["stage1_speedup_128"] > 0
    assert chart.read_bytes().startswith(PNG)


def test_padding_compares_equal_losses_with_and_without_a_mask(tmp_path):
    chart = tmp_path / "padding.png"
    figures = json.loads(benchmark("padding", *SMALL, "--json", "--chart", chart).splitlines()[-1])
    assert [name.split(",")[0] for name in figures["cases"]] == ["stage 1", "stage 3", "evaluation"]
    assert all(case["causal"]["ratio"] > 0 for case in figures["cases"].values())
    assert chart.read_bytes().startswith(PNG)


def test_train_reports_the_ratio_to_each_published_precision(world, tmp_path):
    chart = tmp_path / "train.png"
    flags = ["--nuscenes", world, *SMALL, "--json", "--chart", chart]
    figures = json.loads(benchmark("train", *flags).splitlines()[-1])
    assert figures["loss_difference"] < 1e-4
    ways = figures["ways"]
    assert {"as published, fp32", "unpacked, fp32", "packed, fp32"} <= ways.keys()
    assert ways["as published, fp32"]["ratio_to_published_fp32"] == 1
    for summary in ways.values():
        assert ("ratio_to_published_bf16" in summary) == ("as published, bf16" in ways)
    assert chart.read_bytes().startswith(PNG)


def test_a_processor_without_bf16_gives_fp32_figures_only(modules, small, monkeypatch, capsys):
    monkeypatch.setattr(modules.models, "BF16_FLAGS", set())
    assert modules.models.precisions_here() == ["fp32"]
    assert "fp32 only" in capsys.readouterr().out
    figures = modules.packing.time_driving(small, ["fp32"], 1)
    assert figures["speedup_bf16"] is None
    assert not [way for way in figures["ways"] if "bf16" in way]


def test_the_random_frame_has_the_length_of_the_real_one(modules):
    # The sizes of the real model, except for the images, which do not matter here.
    real = modules.models.Geometry(image_size=28)
    generator = torch.Generator().manual_seed(0)
    item = modules.synthetic.frame(real, torch.zeros(6, 3, 28, 28), generator)
    unpacked = Collator(0, 2048, 128)(modules.synthetic.unpack_samples([item]))
    packed = PackCollator(0, 2048, 128, 4096)([item])
    assert (unpacked["counts"].tokens, packed["counts"].tokens) == (13_843, 3_391)
    assert packed["layout"][0].prefix == 871
    assert sum(modules.synthetic.DRAWN_CAPTIONS.values()) == 1536
    assert sum(modules.synthetic.REAL_CAPTIONS.values()) == 610


def test_evaluate_scores_like_separate_forward_passes(tmp_path):
    chart = tmp_path / "evaluate.png"
    figures = json.loads(benchmark("evaluate", *SMALL, "--json", "--chart", chart).splitlines()[-1])
    assert figures["max_difference_log_prob"] < 1e-4
    assert figures["speedup"] > 0
    assert chart.read_bytes().startswith(PNG)


def test_the_plans_of_the_benchmark_have_the_lengths_and_the_tree_of_vicunas_tokenizer(modules):
    answers = modules.synthetic.answers()
    # The lengths of the twenty answers and their 120 distinct prefixes were counted with Vicuna's tokenizer.
    lengths = [9, 11, 11, 10, 10, 11, 13, 13, 12, 12, 11, 13, 13, 12, 12, 8, 10, 10, 9, 9]
    assert len(set(answers)) == 20
    assert [len(answer) for answer in answers] == lengths
    assert len({tuple(answer[:depth]) for answer in answers for depth in range(13)}) == 120
    assert round(sum(lengths) / 20) == modules.evaluate.DECODED


def test_the_published_loss_gives_our_gradient(modules, small):
    generator = torch.Generator().manual_seed(0)
    item = modules.synthetic.frame(small, modules.models.random_images(6, small, generator), generator)
    samples = modules.synthetic.unpack_samples([item])[:3]
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
    summary = modules.common.summarize(seconds, "old")
    assert summary["old"] == {"ms": 3500, "per_second": 1 / 3.5, "ratio": 1}
    assert summary["new"]["ratio"] == (5 / 1 + 2 / 1) / 2


def test_help_does_not_import_torch_and_a_chart_must_be_a_png():
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
    assert "--chart speed.jpg is no PNG" in result.stderr

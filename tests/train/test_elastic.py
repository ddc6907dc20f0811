"""A run goes on with another number of processes as if it had never stopped."""

import json
import signal
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from torch import nn

from senna.cli import main
from senna.errors import UsageError
from senna.model.loading import open_model
from senna.train.dropout import has_dropout, seed_micro_batch
from senna.train.partitions import check_processes, copy_fragments, flat_fragments, sliced_fragments
from tests.helpers.forks import Run
from tests.helpers.paths import ZERO2, ZERO3
from tests.helpers.toy import driving_records, losses
from tests.train import kills, sample_spy

# ---- layout of the partitions

SIZES = {"a": 5, "b": 1, "c": 12, "d": 3}
FLAT, SLICED = "flat", "sliced"


def layout(kind, processes, paddings=(0, 0, 0, 0)):
    """Return the fragments of all processes, and the length of a partition."""
    if kind == SLICED:
        return list(sliced_fragments(SIZES, 0, processes, range(processes))), sum(
            -(-n // processes) for n in SIZES.values()
        )
    length = -(-(sum(SIZES.values()) + sum(paddings)) // (2 * processes)) * 2
    return list(flat_fragments(SIZES, paddings, 0, length, range(processes))), length


@pytest.mark.parametrize("after", [1, 2, 3, 16])
@pytest.mark.parametrize(("before", "paddings"), [(1, (0, 0, 0, 0)), (2, (1, 0, 2, 0)), (3, (0, 0, 0, 0))])
@pytest.mark.parametrize("kind", [FLAT, SLICED])
def test_partitions_of_some_processes_become_those_of_another_number(kind, before, paddings, after):
    values = {name: torch.randn(size) for name, size in SIZES.items()}

    def partitions(fragments, length, processes):
        made = [torch.zeros(length) for _ in range(processes)]
        for part in fragments:
            made[part.rank][part.offset : part.offset + part.length] = values[part.name][part.start :][: part.length]
        return made

    fragments, length = layout(kind, before, paddings)
    assert sum(part.length for part in fragments) == sum(SIZES.values())
    earlier, sources = partitions(fragments, length, before), defaultdict(list)
    for part in fragments:
        sources[part.name].append(part)
    wanted, length = layout(kind, after)
    for rank, expected in enumerate(partitions(wanted, length, after)):
        copied = torch.zeros(length)
        copy_fragments(copied, [part for part in wanted if part.rank == rank], sources, lambda part: earlier[part.rank])
        assert torch.equal(copied, expected)


def write_partition(folder: Path, processes: int, moments: dict, **state) -> None:
    """Write what rank 0 of a ZeRO-2 run leaves in a checkpoint, and empty files of the other ranks."""
    (folder / "global_step1").mkdir(parents=True)
    (folder / "latest").write_text("global_step1")
    weights, groups = [torch.zeros(6)], [{"lr": 0.1, "params": [0]}]
    first = {
        "zero_stage": 2, "partition_count": [processes], "group_paddings": [2], "single_partition_of_fp32_groups": weights,
        "base_optimizer_state": {"state": {0: moments}, "param_groups": groups}, **state,
    }  # fmt: skip
    for rank in range(processes):
        path = folder / "global_step1" / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": first if rank == 0 else {}}, path)


ADAM = {"step": torch.tensor(3.0), "exp_avg": torch.zeros(8), "exp_avg_sq": torch.zeros(8)}


@pytest.mark.parametrize(
    ("moments", "config", "state", "reason"),
    [
        (ADAM, {}, {}, None),
        ({**ADAM, "step": 3}, {}, {}, None),
        ({**ADAM, "absmax1": torch.zeros(2)}, {}, {}, "keeps absmax1 for blocks of weights, as 8-bit optimizers do"),
        ({"quantized": {"state1": torch.zeros(8)}}, {}, {}, "keeps quantized for blocks of weights"),
        (ADAM, {"offload_optimizer": {"device": "nvme"}}, {}, "offloaded to NVMe"),
        (ADAM, {"offload_optimizer": {"device": "cpu"}}, {}, None),
        (ADAM, {}, {"partition_count": 2}, "partitioned over 2 of 4 processes"),
        ({"path": Path("x")}, {}, {}, "the files of this version of DeepSpeed are not known"),
    ],
)
def test_an_optimizer_that_cannot_be_split_is_refused_with_the_number_that_continues(
    tmp_path, moments, config, state, reason
):
    write_partition(tmp_path, 4, moments, **state)
    config = {"zero_optimization": config}
    check_processes(tmp_path, config, 4)
    if reason is None:
        return check_processes(tmp_path, config, 1)
    with pytest.raises(UsageError, match=reason) as error:
        check_processes(tmp_path, config, 1)
    assert "was written by 4 processes and cannot be continued by 1" in error.value.message
    assert error.value.remedy == "continue on as many as before: NUM_GPUS=4"


def test_a_checkpoint_without_partitions_continues_on_any_number_of_processes(tmp_path):
    check_processes(tmp_path, {"zero_optimization": {"stage": 2}}, 3)  # of a run without DeepSpeed
    write_partition(tmp_path, 0, {})
    check_processes(tmp_path, {"zero_optimization": {"stage": 0}}, 3)


# ---- dropout


def test_the_dropout_of_a_micro_batch_follows_from_its_position_alone():
    dropout, rows = nn.Dropout(0.5), torch.ones(64)

    def masks(*positions):
        made = []
        for step, index in positions:
            seed_micro_batch(42, step, index)
            made.append(dropout(rows))
        return made

    in_order = masks((3, 0), (3, 1), (4, 0))
    torch.rand(7)
    again = masks((4, 0), (3, 1))
    assert torch.equal(again[0], in_order[2])
    assert torch.equal(again[1], in_order[1])
    assert not any(torch.equal(in_order[i], in_order[j]) for i, j in ((0, 1), (0, 2), (1, 2)))


class Attention(nn.Module):
    def __init__(self, **rates):
        super().__init__()
        vars(self).update(rates)


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout(0.0), False),
        (nn.Identity(), False),
        (Attention(attention_dropout=0.1), True),
        (Attention(dropout=0.1), True),
        (Attention(attention_dropout=0.0, dropout=0.0), False),
    ],
)
def test_only_a_model_that_drops_something_is_seeded(module, expected):
    assert has_dropout(nn.Sequential(nn.Linear(2, 2), module)) is expected


# ---- runs

STEPS, SAVE_STEPS, KILLS = 6, 2, (3, 5)
WAYS = {
    "full": (None, None, {}),
    "packed": (None, None, {"pack_frames": True}),
    "LoRA ZeRO-2": ("lora", ZERO2, {}),  # with dropout
    "full ZeRO-3": (None, ZERO3, {}),
    "QLoRA ZeRO-2": ("qlora", ZERO2, {}),
}


def flags(toy, out, model, way, **options):
    """Return the words of `senna train` for a run of six steps of four samples, or frames, one to a forward pass."""
    how, zero, own = WAYS[way]
    common = {"global_batch_size": 4, "gradient_accumulation_steps": None, "per_device_train_batch_size": 1}
    common |= {
        "max_steps": STEPS,
        "save_steps": SAVE_STEPS,
        "pack_frames": False,
        "deepspeed": zero,
        "num_train_epochs": 9,
    }
    return ["train", *toy.driving_flags(out, model, how=how, **common | own | options)]


@pytest.fixture
def uninterrupted(toy, stage1, once):
    """Return ``uninterrupted(way)``: the folder of the run on one process without DeepSpeed, and its samples by step."""

    def run(way):
        def make(folder):
            words = flags(toy, folder / "out", stage1, way, deepspeed=None)
            assert sample_spy.train([str(folder / "samples"), *words]) == 0

        folder = once(f"uninterrupted-{way.removesuffix(' ZeRO-3')}", make)
        return folder / "out", sample_spy.samples(folder / "samples", 1)

    return run


def go_on(toy, out, words, processes, kill_after=None):
    """Start a run and kill it after a step, or wait for its end. Return its samples by step."""
    path = out.parent / f"samples-{processes}-{kill_after}"
    run = Run(sample_spy.train, [str(path), *words], toy.folder, processes)
    if kill_after is None:
        result = run.result()
        assert result.returncode == 0, result.stderr
        assert "continue" in result.stdout
    else:
        for line in run.stdout:
            if line.startswith(f"step {kill_after}/"):
                break
        _, errors = run.kill()
        assert run.returncode == -signal.SIGKILL, errors
    return sample_spy.samples(path, processes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "order"),
    [
        ("full", (1, 2, 1)),
        ("packed", (2, 1, 2)),
        ("LoRA ZeRO-2", (2, 1, 2)),
        ("LoRA ZeRO-2", (1, 2, 1)),
        ("full ZeRO-3", (2, 1, 2)),
        ("QLoRA ZeRO-2", (2, 1, 2)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(map(str, value)),
)
def test_a_run_that_is_killed_goes_on_with_another_number_of_processes(
    toy, stage1, uninterrupted, tmp_path, way, order
):
    if "QLoRA" in way:
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    whole, order_of_samples = uninterrupted(way)
    out = tmp_path / "out"
    words = flags(toy, out, stage1, way)
    for processes, kill_after in zip(order, (*KILLS, None), strict=True):
        samples = go_on(toy, out, words, processes, kill_after)
        assert samples == {step: order_of_samples[step] for step in samples}
    assert min(samples) == KILLS[-1] // SAVE_STEPS * SAVE_STEPS
    found, expected = dict(losses(out)), dict(losses(whole))
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected[STEPS] < expected[1]


@pytest.mark.slow
def test_a_run_survives_kills_at_random_in_a_save_and_in_a_validation_and_a_sigterm(toy, stage1, tmp_path):
    lines = list(kills.survive(toy, stage1, tmp_path, kills=4, seed=1))
    for text in ("after step", "inside a save", "inside a validation", "SIGTERM after step"):
        assert any(text in line for line in lines)


@pytest.mark.slow
def test_the_best_checkpoint_of_two_processes_is_loaded_by_one_at_the_end(toy, stage1, tmp_path):
    held_out, out = tmp_path / "held_out.jsonl", tmp_path / "out"
    records = [{**record, "scene_token": "held-out"} for record in driving_records(8)]
    held_out.write_text("".join(json.dumps(record) + "\n" for record in records))
    best = {"eval_data_path": held_out, "eval_steps": 2, "metric_for_best_model": "eval_loss"}
    diverging = {"learning_rate": 0.5, "lr_scheduler_type": "constant", "max_steps": 4}
    words = flags(toy, out, stage1, "full ZeRO-3", load_best_model_at_end=True, **best, **diverging)
    go_on(toy, out, words, processes=2, kill_after=3)
    go_on(toy, out, words, processes=1)
    assert {path.name for path in out.glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert main(["export", "--checkpoint", str(out / "checkpoint-2"), "--out", str(tmp_path / "best")]) == 0
    found, expected = (open_model(str(folder))[0].state_dict() for folder in (out, tmp_path / "best"))
    assert all(torch.equal(found[name], expected[name]) for name in expected)

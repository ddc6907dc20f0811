"""A step over packed rows has the loss and every gradient of the same step without packing, in each training setting."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers.models.clip import CLIPImageProcessorPil

from senna.cli import main
from senna.errors import UsageError
from senna.model import SennaConfig, SennaLlavaLlamaForCausalLM
from senna.model.loading import open_model
from senna.model.lora import add_lora
from senna.model.packed_attention import use_packed_attention
from senna.model.tokenizer import load_tokenizer
from senna.synthetic import write_world
from senna.train.arguments import parse_arguments
from senna.train.run import build_trainer
from tests.helpers.forks import Run
from tests.helpers.packing import MAX_LENGTH, BothWays, draw_images, odd_records, step, tiny_model, worst_difference
from tests.helpers.paths import GOLDEN, REPOSITORY
from tests.helpers.small_tokenizers import llama_folder
from tests.train import gradient_spy


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(llama_folder(tmp_path_factory.mktemp("tokenizer") / "llama")), MAX_LENGTH)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Records of frames with 5, 1 and 2 questions, with text-only records between them, and their image folder."""
    folder = tmp_path_factory.mktemp("synthetic")
    records = odd_records([5, 1, 2])
    draw_images(records, folder)
    return records, folder


@pytest.fixture(scope="module")
def converted(once, tmp_path_factory):
    """Return the questions of `senna convert` about two key frames of the synthetic world, and the folder of its images."""

    def make(folder):
        world = write_world(folder / "nuscenes", 1, seed=4, mini=True, frames=2)
        flags = ["--nuscenes", str(world), "--version", "v1.0-mini", "--limit", "2", "--out", str(folder / "qa")]
        assert main(["convert", *flags]) == 0

    folder = shutil.copytree(once("converted", make), tmp_path_factory.mktemp("converted"), dirs_exist_ok=True)
    lines = (folder / "qa" / "senna_nusc_train.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["token"] for record in records}) == 2
    return records, folder / "nuscenes"


def processor(config: SennaConfig) -> CLIPImageProcessorPil:
    side = config.vision_config.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def published_geometry(vocabulary: int) -> SennaLlavaLlamaForCausalLM:
    """Return a model with 576 patches and 128 tokens a view as published, few layers and the given vocabulary."""
    config = SennaLlavaLlamaForCausalLM.from_pretrained(GOLDEN / "model_v320").config
    config.vocab_size, config.tokenizer_model_max_length = vocabulary, MAX_LENGTH
    torch.manual_seed(0)
    return SennaLlavaLlamaForCausalLM(config)


def prepared(model, method: str, checkpointing: bool):
    """Return the model prepared for training as a run prepares it."""
    if method == "lora":
        add_lora(model, 4, 8, 0.0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)  # zeros would make half of the gradients zero
            parameter.requires_grad_("lora_" in name)
        model.model.mm_projector.requires_grad_(True)
        model.model.img_adapter.requires_grad_(True)
    if checkpointing:
        enable = getattr(
            model, "activation_checkpointing_enable", model.gradient_checkpointing_enable
        )  # the newer name
        enable({"use_reentrant": False})
    model.model.vision_tower.requires_grad_(False)
    return model.train()


def compare(model, records, folder, tokenizer, kinds=("split", "dense"), **pack) -> None:
    both = BothWays(records, folder, tokenizer, processor(model.config), model.config)
    loss, gradients = step(model, list(both.unpacked()))
    for kind in kinds:
        use_packed_attention(model, kind)
        packed_loss, packed_gradients = step(model, list(both.packed(**pack)))
        assert packed_loss == pytest.approx(loss, rel=1e-6)
        assert worst_difference(packed_gradients, gradients) < 1e-4


@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "checkpointed"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_loss_and_every_gradient_are_those_without_packing(synthetic, tokenizer, method, checkpointing):
    model = prepared(tiny_model(len(tokenizer)), method, checkpointing)
    compare(model, *synthetic, tokenizer)


@pytest.mark.parametrize("pack", [{"size": 1}, {"size": 99}, {"size": 3, "pack_max_tokens": MAX_LENGTH}])
def test_frames_per_batch_and_the_split_of_frames_do_not_change_the_step(synthetic, tokenizer, pack):
    compare(prepared(tiny_model(len(tokenizer)), "full", False), *synthetic, tokenizer, kinds=["split"], **pack)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_step_is_the_same_for_converted_frames_in_the_published_image_size(converted, tokenizer, method):
    model = prepared(published_geometry(len(tokenizer)), method, checkpointing=True)
    compare(model, *converted, tokenizer, kinds=["split", "dense"] if method == "full" else ["split"])


@pytest.mark.slow
def test_the_step_is_the_same_for_a_pretrained_llama_with_grouped_heads(converted, smollm2):
    tokenizer = load_tokenizer(str(smollm2), MAX_LENGTH)
    model, _ = open_model(
        str(smollm2), str(GOLDEN / "clip_tiny"), dtype=torch.float32, mm_adapter_tokens=8,
        tokenizer_model_max_length=MAX_LENGTH,
    )  # fmt: skip
    model.model.layers = model.model.layers[:6]  # of 30, to save time
    model.config.num_hidden_layers = 6
    records, folder = converted
    first = [record for record in records if record["token"] == records[0]["token"]][:4]
    compare(prepared(model, "full", checkpointing=True), first, folder, tokenizer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention has a gradient on CUDA only")
def test_on_a_gpu_every_packed_attention_has_the_gradient_without_packing(synthetic, tokenizer):
    model = prepared(tiny_model(len(tokenizer)), "full", checkpointing=True).cuda()
    compare(model, *synthetic, tokenizer, kinds=("flex", "split", "dense"))


def test_the_step_is_the_same_if_each_record_has_equal_weight(synthetic, tokenizer):
    model = prepared(tiny_model(len(tokenizer)), "full", False)
    both = BothWays(*synthetic, tokenizer, processor(model.config), model.config)
    loss, gradients = step(model, list(both.unpacked()), loss_weight="record")
    use_packed_attention(model, "split")
    packed_loss, packed_gradients = step(model, list(both.packed()), loss_weight="record")
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert worst_difference(packed_gradients, gradients) < 1e-4


def test_the_text_of_a_branch_does_not_change_the_loss_of_other_branches(synthetic, tokenizer):
    model = tiny_model(len(tokenizer)).eval()
    use_packed_attention(model, "split")
    [batch, *_] = BothWays(*synthetic, tokenizer, processor(model.config), model.config).packed(
        size=1, pack_max_tokens=9999
    )
    [tree, *_] = [tree for tree in batch["layout"] if tree.branches]
    before = model(**batch)
    text = batch["source"][tree.row, tree.start + tree.prefix :][: tree.branches[0]]  # the first branch
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, text] = 7
    after = model(**changed)
    changed_logits = (before.logits != after.logits).any(dim=1)
    in_first = (batch["target_positions"] >= tree.start + tree.prefix) & (
        batch["target_positions"] < tree.start + tree.prefix + tree.branches[0]
    )
    assert changed_logits[in_first].all()
    assert not changed_logits[~in_first].any()
    assert torch.equal(before.sample_losses[1:], after.sample_losses[1:])


def test_attention_that_cannot_separate_branches_refuses_packed_rows(synthetic, tokenizer):
    model = tiny_model(len(tokenizer))
    [batch, *_] = BothWays(*synthetic, tokenizer, processor(model.config), model.config).packed()
    for implementation in ("sdpa", "eager"):
        model.config._attn_implementation = implementation
        with pytest.raises(UsageError, match="cannot keep packed branches apart"):
            model(**batch)


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "method"), [(2, "lora"), (3, "full")])
def test_two_processes_with_packing_have_the_gradient_of_one_process_without(toy, stage1, tmp_path, zero, method):
    options = {"how": "lora", "lora_dropout": 0.0} if method == "lora" else {}
    alone = build_trainer(parse_arguments(toy.driving_flags(tmp_path / "one", stage1, pack_frames=False, **options)))
    alone.model.train()
    batch = alone.data_collator([alone.train_dataset[index] for index in range(len(alone.train_dataset))])
    for name in ("kinds", "counts"):
        batch.pop(name)
    _, gradients = step(alone.model, [batch])

    deepspeed = REPOSITORY / "configs" / "deepspeed" / f"zero{zero}.json"
    together = {"per_device_train_batch_size": 6, "max_steps": 1, "deepspeed": deepspeed, **options}
    flags = toy.driving_flags(tmp_path / "two", stage1, **together)
    result = Run(
        gradient_spy.train, [str(tmp_path / "gradients.safetensors"), *flags], toy.folder, processes=2
    ).result()
    assert result.returncode == 0, result.stderr
    assert worst_difference(load_file(tmp_path / "gradients.safetensors"), gradients) < 1e-4

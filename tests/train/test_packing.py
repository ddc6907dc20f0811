"""A packed step is the step of the same questions one by one: loss and every gradient, in each setting that trains."""

import json

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
from senna.train.arguments import parse_arguments
from senna.train.run import build_trainer
from tests.conftest import REPOSITORY
from tests.data.small_tokenizers import llama_folder
from tests.forks import Run
from tests.model.conftest import GOLDEN
from tests.train import gradient_spy
from tests.train.packing import MAX_LENGTH, BothWays, draw_images, odd_records, step, tiny_model, worst_difference


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return load_tokenizer(str(llama_folder(tmp_path_factory.mktemp("tokenizer") / "llama")), MAX_LENGTH)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    """Frames of 5, 1 and 2 questions, with text alone between them."""
    folder = tmp_path_factory.mktemp("synthetic")
    records = odd_records([5, 1, 2])
    draw_images(records, folder)
    return records, folder


@pytest.fixture(scope="module")
def real(data, tmp_path_factory):
    """The questions of two real key frames of nuScenes; the first has its six real pictures."""
    folder = tmp_path_factory.mktemp("real")
    flags = ["--nuscenes", str(data / "nuscenes_mini3"), "--version", "v1.0-mini", "--allow-missing-images"]
    assert main(["convert", *flags, "--limit", "2", "--out", str(folder / "qa")]) == 0
    lines = (folder / "qa" / "senna_nusc_train.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert len({record["token"] for record in records}) == 2
    for path in records[0]["images"]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).symlink_to(data / "nuscenes_mini3" / path)
    draw_images(records, folder)
    return records, folder


def processor(config: SennaConfig) -> CLIPImageProcessorPil:
    side = config.vision_config.image_size
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def published_geometry(vocabulary: int) -> SennaLlavaLlamaForCausalLM:
    """336/14, 576 patches, 128 tokens a view, and layers as in the published numbers; another vocabulary."""
    config = SennaLlavaLlamaForCausalLM.from_pretrained(GOLDEN / "model_v320").config
    config.vocab_size, config.tokenizer_model_max_length = vocabulary, MAX_LENGTH
    torch.manual_seed(0)
    return SennaLlavaLlamaForCausalLM(config)


def prepared(model, method: str, checkpointing: bool):
    """In training mode, as a run makes it."""
    if method == "lora":
        add_lora(model, 4, 8, 0.0)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)  # at zero half of the gradients would be
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
def test_loss_and_every_gradient_are_the_unpacked_ones(synthetic, tokenizer, method, checkpointing):
    model = prepared(tiny_model(len(tokenizer)), method, checkpointing)
    compare(model, *synthetic, tokenizer)


@pytest.mark.parametrize("pack", [{"size": 1}, {"size": 99}, {"size": 3, "pack_max_tokens": MAX_LENGTH}])
def test_how_many_frames_a_batch_has_and_where_they_are_split_changes_nothing(synthetic, tokenizer, pack):
    compare(prepared(tiny_model(len(tokenizer)), "full", False), *synthetic, tokenizer, kinds=["split"], **pack)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_same_on_real_frames_in_the_published_geometry(real, tokenizer, method):
    model = prepared(published_geometry(len(tokenizer)), method, checkpointing=True)
    compare(model, *real, tokenizer, kinds=["split", "dense"] if method == "full" else ["split"])


@pytest.mark.slow
def test_the_same_for_a_pretrained_llama_with_grouped_heads(real, smollm2):
    tokenizer = load_tokenizer(str(smollm2), MAX_LENGTH)
    model, _ = open_model(
        str(smollm2), str(GOLDEN / "clip_tiny"), dtype=torch.float32, mm_adapter_tokens=8,
        tokenizer_model_max_length=MAX_LENGTH,
    )  # fmt: skip
    model.model.layers = model.model.layers[:6]  # of 30 alike, each of which takes its seconds
    model.config.num_hidden_layers = 6
    records, folder = real
    first = [record for record in records if record["token"] == records[0]["token"]][:4]
    compare(prepared(model, "full", checkpointing=True), first, folder, tokenizer)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flex attention has a gradient on CUDA only")
def test_on_a_gpu_every_kind_of_attention_has_the_gradient_of_the_unpacked_batch(synthetic, tokenizer):
    model = prepared(tiny_model(len(tokenizer)), "full", checkpointing=True).cuda()
    compare(model, *synthetic, tokenizer, kinds=("flex", "split", "dense"))


def test_each_record_of_equal_weight_is_the_same_packed(synthetic, tokenizer):
    model = prepared(tiny_model(len(tokenizer)), "full", False)
    both = BothWays(*synthetic, tokenizer, processor(model.config), model.config)
    loss, gradients = step(model, list(both.unpacked()), loss_weight="record")
    use_packed_attention(model, "split")
    packed_loss, packed_gradients = step(model, list(both.packed()), loss_weight="record")
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert worst_difference(packed_gradients, gradients) < 1e-4


def test_an_answer_scores_exactly_the_same_whatever_another_branch_says(synthetic, tokenizer):
    model = tiny_model(len(tokenizer)).eval()
    use_packed_attention(model, "split")
    [batch, *_] = BothWays(*synthetic, tokenizer, processor(model.config), model.config).packed(
        size=1, pack_max_tokens=9999
    )
    [tree, *_] = [tree for tree in batch["layout"] if tree.branches]
    before = model(**batch)
    text = batch["source"][tree.row, tree.start + tree.prefix :][: tree.branches[0]]  # of the first branch
    changed = {**batch, "input_ids": batch["input_ids"].clone()}
    changed["input_ids"][0, text] = 7
    after = model(**changed)
    moved = (before.logits != after.logits).any(dim=1)
    in_first = (batch["target_places"] >= tree.start + tree.prefix) & (
        batch["target_places"] < tree.start + tree.prefix + tree.branches[0]
    )
    assert moved[in_first].all()
    assert not moved[~in_first].any()
    assert torch.equal(before.sample_losses[1:], after.sample_losses[1:])


def test_a_layout_is_refused_by_attention_that_cannot_hold_branches_apart(synthetic, tokenizer):
    model = tiny_model(len(tokenizer))
    [batch, *_] = BothWays(*synthetic, tokenizer, processor(model.config), model.config).packed()
    for implementation in ("sdpa", "eager"):
        model.config._attn_implementation = implementation
        with pytest.raises(UsageError, match="cannot keep packed branches apart"):
            model(**batch)


@pytest.mark.slow
@pytest.mark.parametrize(("zero", "method"), [(2, "lora"), (3, "full")])
def test_two_processes_that_pack_have_the_gradient_of_one_that_does_not(toy, stage1, tmp_path, zero, method):
    options = {"how": "lora", "lora_dropout": 0.0} if method == "lora" else {}
    alone = build_trainer(parse_arguments(toy.driving_flags(tmp_path / "one", stage1, pack_frames=False, **options)))
    alone.model.train()
    whole = alone.data_collator([alone.train_dataset[index] for index in range(len(alone.train_dataset))])
    for name in ("kinds", "counts"):
        whole.pop(name)
    _, gradients = step(alone.model, [whole])

    deepspeed = REPOSITORY / "configs" / "deepspeed" / f"zero{zero}.json"
    together = {"per_device_train_batch_size": 6, "max_steps": 1, "deepspeed": deepspeed, **options}
    flags = toy.driving_flags(tmp_path / "two", stage1, **together)
    result = Run(
        gradient_spy.train, [str(tmp_path / "gradients.safetensors"), *flags], toy.folder, processes=2
    ).result()
    assert result.returncode == 0, result.stderr
    assert worst_difference(load_file(tmp_path / "gradients.safetensors"), gradients) < 1e-4

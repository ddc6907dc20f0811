"""The memory model against published figures and against torch's allocator on this machine."""

import gc
import importlib
import sys
import weakref
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from senna.doctor.dry_run import parse
from senna.model.config import IGNORE_INDEX, SennaConfig
from senna.train.arguments import parse_arguments
from senna.train.memory.activations import Attention, Loss, MicroBatch, NumberBytes, Trained, layer_saved
from senna.train.memory.estimate import Setup, Zero, estimate, estimate_generation, phases
from senna.train.memory.fit import GATHERED, training_setup
from senna.train.memory.model_shape import LINEARS, ModelShape, Tower
from senna.train.run import build_trainer
from tests.helpers.paths import REPOSITORY
from tests.helpers.small_tokenizers import llama_folder

GB, GIB = 1e9, 2**30
CLIP_L = Tower(
    hidden_size=1024, intermediate_size=4096, num_heads=16, num_layers=24, layers_run=23, image_size=336, patch_size=14
)
LLAMA_2_7B = ModelShape(4096, 11008, 32, 32, 32, 128, 32000)
LLAMA_31_8B = ModelShape(4096, 14336, 32, 32, 8, 128, 128256)
SENNA_7B = replace(LLAMA_2_7B, tower=CLIP_L, view_tokens=128)
LLAVA_7B = replace(LLAMA_2_7B, tower=CLIP_L, view_tokens=576)
YI_34B = ModelShape(7168, 20480, 60, 56, 8, 128, 64064, tower=CLIP_L, view_tokens=576)

BF16, MIXED, FP32_TRAINED = NumberBytes(2, 2, 2), NumberBytes(2, 4, 4), NumberBytes(2, 2, 4)
ATTENTION = ("q", "k", "v", "o")

# litgpt, config_hub/finetune/llama-2-7b: LoRA of rank 32 on query and value, 2 x 512 tokens, no checkpointing, the loss in
# chunks of 128 tokens; everything in bf16, AdamW's states too. Its figures are torch.cuda.max_memory_allocated.
LITGPT = Setup(
    MicroBatch(2, 512, 1024, 0),
    Trained("lora", 32, ("q", "v")),
    BF16,
    adam_bytes=2,
    gradient_bytes=2,
    checkpointing=False,
    loss=Loss(8),
)
# With --quantize bnb.nf4 its activations must be fp32. This follows from its own two rows: they differ by 19.77 - 13.68 GB,
# but the weights alone by 9.3 GB. The rest, 24 bytes x hidden_size x tokens x layers, is the additional cost of fp32.
LITGPT_NF4 = replace(LITGPT, numbers=NumberBytes(4, 4, 2), frozen="nf4-single", adam_bytes=4, gradient_bytes=4)
# torchtune, recipes/configs/llama3_1/8B_*lora_single_device: rank 8, 2 x 2048 packed tokens, checkpointing. According to its
# table everything is compiled, also the loss in 8 chunks.
TORCHTUNE = Setup(
    MicroBatch(2, 2048, 4096, 0),
    Trained("lora", 8, ATTENTION, dropout=False),
    BF16,
    adam_bytes=2,
    gradient_bytes=2,
    loss=Loss(8, True),
)
TORCHTUNE_NF4 = replace(TORCHTUNE, frozen="nf4", trained=Trained("lora", 8, LINEARS, dropout=False))
# LLaMA-Factory's table gives neither batch size nor length. Assumed: one row of 2048 tokens (the cut-off of its examples),
# all of them targets, rank 8, and gradient accumulation as in its examples.
FACTORY = Setup(MicroBatch(1, 2048, 2048, 0), Trained("full"), MIXED, accumulates=True)
FACTORY_LORA = replace(FACTORY, trained=Trained("lora", 8, casts_inputs=True), numbers=FP32_TRAINED)
# The published Senna code on one 32 GB GPU: eager attention, logits at all positions, DeepSpeed ZeRO-2 on one process.
PUBLISHED = {
    "numbers": BF16,
    "fp32_copies": True,
    "gradient_bytes": 2,
    "zero": Zero(2, 1),
    "attention": Attention(eager=True),
}
CAPTIONS = MicroBatch(8, 192, 8 * 192, 8)
# The longest question of a nuScenes frame, which causes the peak: 768 view tokens and 556 text tokens.
QUESTIONS = MicroBatch(2, 1324, 2 * 1324, 12)

FIGURES = [
    # source, figure, unit, tolerance, estimate
    ("litgpt, Llama-2-7B, LoRA", 19.77, GB, 0.10, estimate(LLAMA_2_7B, LITGPT).allocated),
    # from an earlier version with unknown settings: the only row with an error above 10 %
    ("litgpt, Llama-2-7B, LoRA, an earlier table", 21.3, GB, 0.125, estimate(LLAMA_2_7B, LITGPT).allocated),
    ("litgpt, Llama-2-7B, QLoRA", 13.68, GB, 0.10, estimate(LLAMA_2_7B, LITGPT_NF4).allocated),
    ("litgpt, Llama-2-7B, QLoRA, an earlier table", 14.1, GB, 0.10, estimate(LLAMA_2_7B, LITGPT_NF4).allocated),
    ("torchtune, Llama-3.1-8B, LoRA", 16.2, GIB, 0.10, estimate(LLAMA_31_8B, TORCHTUNE).allocated),
    ("torchtune, Llama-3.1-8B, QLoRA", 7.4, GIB, 0.10, estimate(LLAMA_31_8B, TORCHTUNE_NF4).allocated),
    ("LLaMA-Factory, 7B full, AMP", 120, GB, 0.10, estimate(LLAMA_2_7B, FACTORY).total),
    ("LLaMA-Factory, 7B full, pure bf16", 60, GB, 0.10,
        estimate(LLAMA_2_7B, replace(FACTORY, numbers=BF16, adam_bytes=2, gradient_bytes=2)).total),
    ("LLaMA-Factory, 7B LoRA", 16, GB, 0.10, estimate(LLAMA_2_7B, FACTORY_LORA).total),
    ("LLaMA-Factory, 7B QLoRA", 6, GB, 0.10, estimate(LLAMA_2_7B, replace(FACTORY_LORA, frozen="nf4")).total),
    ("Senna on 32 GB, stage 1, batch 8", 17, GB, 0.15,
        estimate(SENNA_7B, Setup(CAPTIONS, Trained("adapters"), **PUBLISHED)).total),
    ("Senna on 32 GB, LoRA of rank 128, batch 2", 25.4, GB, 0.15,
        estimate(SENNA_7B, Setup(QUESTIONS, Trained("lora", 128), **PUBLISHED)).total),
    # five tiles of 576 patches with their row separators, a question, and an answer of up to 256 tokens
    ("LLaVA-1.6-34B in nf4, captioning", 22.9, GB, 0.15, estimate_generation(YI_34B, "nf4", 1, 2940, 256, 5).total),
    ("LLaVA-1.6-34B in fp16", 75, GB, 0.10, estimate_generation(YI_34B, "bf16", 1, 2940, 256, 5).total),
]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "figure", "unit", "tolerance", "predicted"), FIGURES, ids=[row[0] for row in FIGURES]
)
def test_estimates_agree_with_published_figures(source, figure, unit, tolerance, predicted):
    # pytest -rP shows this line
    print(f"{source:<45}{figure:>8.2f}{predicted / unit:>8.2f}{predicted / unit / figure - 1:>+8.1%}")
    assert predicted / unit == pytest.approx(figure, rel=tolerance)


def test_weight_counts_of_the_7b_model_are_those_of_its_checkpoint():
    sizes = dict(
        hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32
    )
    shape = ModelShape.from_config(SennaConfig(**sizes, vocab_size=32000, tie_word_embeddings=False))
    assert shape == SENNA_7B
    assert (shape.llm_weights, shape.tower.weights, shape.adapter_weights) == (6738415616, 303507456, 20979712 + 106880)
    assert shape.lora_weights(128) == 319815680


def test_full_training_of_llava_7b_does_not_fit_one_80_gb_gpu():
    setup = Setup(MicroBatch(1, 800, 800, 1), Trained("full"), MIXED)
    assert estimate(LLAVA_7B, setup).total > 80 * GIB


def test_zero_stages_partition_optimizer_gradients_and_weights():
    # arXiv 1910.02054, figure 1: 2 bytes per weight, 2 per gradient, 12 for the optimizer, partitioned from stage 3, 2, 1.
    full = Setup(MicroBatch(1, 8, 8, 0), Trained("full"), BF16, fp32_copies=True, gradient_bytes=2, zero=Zero(0, 64))
    count = LLAMA_2_7B.llm_weights

    def constant(stage):
        parts = estimate(LLAMA_2_7B, replace(full, zero=Zero(stage, 64))).parts
        return (parts["weights"] + parts["optimizer"]) / count

    assert [constant(stage) for stage in (0, 1, 2, 3)] == pytest.approx([2 + 12, 2 + 12 / 64, 2 + 12 / 64, 14 / 64])
    assert [
        estimate(LLAMA_2_7B, replace(full, zero=Zero(stage, 64), accumulates=True)).parts["gradients"] / count
        for stage in (1, 2)
    ] == pytest.approx([2 + 4, 2 / 64 + 4 / 64])  # 4 bytes for the fp32 copies of the optimizer step


@pytest.mark.parametrize("trained", [Trained("adapters"), Trained("lora", 64), Trained("full")], ids=lambda t: t.method)
def test_memory_grows_with_the_batch_and_shrinks_with_checkpointing_and_quantization(trained):
    setup = Setup(MicroBatch(2, 1000, 200, 12), trained, MIXED if trained.method == "full" else FP32_TRAINED)
    needed = estimate(SENNA_7B, setup).total
    assert estimate(SENNA_7B, replace(setup, micro_batch=MicroBatch(4, 1000, 400, 24))).total > needed
    assert estimate(SENNA_7B, replace(setup, micro_batch=MicroBatch(2, 2000, 200, 12))).total > needed
    assert estimate(SENNA_7B, replace(setup, checkpointing=False)).total > needed
    assert estimate(SENNA_7B, replace(setup, attention=Attention(eager=True), checkpointing=False)).total > needed
    if trained.method != "full":
        assert estimate(SENNA_7B, replace(setup, frozen="nf4")).total < needed - 8 * GB


def test_lora_that_casts_its_inputs_needs_more_memory():
    ours = Setup(MicroBatch(2, 1000, 200, 12), Trained("lora", 64), FP32_TRAINED, checkpointing=False)
    for dropout in (True, False):
        plain, cast = (
            estimate(SENNA_7B, replace(ours, trained=Trained("lora", 64, dropout=dropout, casts_inputs=casts)))
            for casts in (False, True)
        )
        assert cast.total > plain.total
        # Without autocast there is nothing to cast.
        assert estimate(SENNA_7B, replace(ours, numbers=BF16)).total == (
            estimate(SENNA_7B, replace(ours, numbers=BF16, trained=replace(ours.trained, casts_inputs=True))).total
        )


@pytest.mark.parametrize("checkpointing", [True, False])
def test_int8_layers_keep_their_inputs_until_the_backward_pass(checkpointing):
    # bitsandbytes keeps the inputs of q, o, gate and down: (3 x 4096 + 11008) x 2 bytes x 32 layers = 1.5 MB a token
    row = Setup(MicroBatch(1, 4096, 400, 6), Trained("lora", 128), FP32_TRAINED, checkpointing=checkpointing)
    saved = {
        kind: phases(SENNA_7B, replace(row, frozen=kind))["the last layer's backward pass"]["saved activations"]
        for kind in ("int8", "nf4")
    }
    difference = saved["int8"] - saved["nf4"]
    assert difference == 4096 * (3 * 4096 + 11008) * 2 * 32
    assert difference / GIB == pytest.approx(5.7, abs=0.05)


def test_bitsandbytes_int8_layers_keep_their_inputs_on_the_autograd_node():
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    layer = bitsandbytes.nn.Linear8bitLt(16, 8, bias=False, has_fp16_weights=False).to("cpu")
    inputs = torch.randn(4, 16, dtype=torch.bfloat16, requires_grad=True)
    kept = layer(inputs).grad_fn
    tensors = [t for name in ("A", "tensors") for t in [getattr(kept, name, None)] if t is not None]
    flat = [t for group in tensors for t in (group if isinstance(group, tuple | list) else [group])]
    assert any(t is not None and t.data_ptr() == inputs.data_ptr() for t in flat)


def test_split_attention_on_a_gpu_needs_memory_for_gathered_keys():
    kind = (SENNA_7B, FP32_TRAINED, Trained("lora", 128))
    split, plain = (layer_saved(*kind, attention, 3391) for attention in (Attention(gathered=GATHERED), Attention()))
    # keys and values of a frame's prefix of 871 tokens, and of 13 branches of 871 + 453 tokens
    assert (split - plain) * 3391 == pytest.approx(2 * 2 * 4096 * (871 + 13 * (871 + 453)))
    args, _ = parse(["--pack_frames", "True", "--pack_attention", "split", "--output_dir", "out"])
    assert training_setup(args, SENNA_7B, 1).attention.gathered == GATHERED
    args, _ = parse(["--pack_frames", "True", "--pack_attention", "flex", "--output_dir", "out"])
    assert training_setup(args, SENNA_7B, 1).attention.gathered == 0


def test_several_gpus_need_buffers_of_nccl():
    setup = Setup(MicroBatch(1, 1000, 100, 6), Trained("adapters"), FP32_TRAINED, zero=Zero(2, 8))
    parts = estimate(SENNA_7B, setup).parts
    assert 0.3 * GIB <= parts["NCCL buffers"] <= GIB
    assert "NCCL buffers" not in estimate(SENNA_7B, replace(setup, zero=Zero(2, 1))).parts
    assert "NCCL buffers" not in estimate(SENNA_7B, replace(setup, cuda=False)).parts
    assert estimate(SENNA_7B, setup).allocated == pytest.approx(
        sum(size for part, size in parts.items() if part not in ("NCCL buffers", "CUDA context", "fragmentation"))
    )


def test_images_are_on_the_gpu_for_the_current_and_the_next_micro_batch_however_many_a_step_has():
    def images(**changes):
        flags = ["--per_device_train_batch_size", "8", "--output_dir", "out"]
        args, _ = parse([*flags, *(word for name, value in changes.items() for word in (f"--{name}", str(value)))])
        return estimate(SENNA_7B, training_setup(args, SENNA_7B, 1)).parts["images"]

    assert images() == images(gradient_accumulation_steps=24) == 2 * 8 * 6 * 3 * 336**2  # uint8


@pytest.fixture(scope="module")
def benchmark():
    """Return the module scripts/benchmarks/memory.py."""
    sys.path.insert(0, str(REPOSITORY / "scripts"))
    yield importlib.import_module("benchmarks.memory")
    sys.path.remove(str(REPOSITORY / "scripts"))


def test_estimates_agree_with_the_cpu_allocator_for_ten_settings_of_small_models(benchmark):
    """Two of the benchmark's twelve settings are left out: 336-pixel images in bf16 take long on a CPU."""
    settings = [
        setting for setting in benchmark.ON_CPU if (setting.geometry.image_size, setting.precision) != (336, "bf16")
    ]
    errors = {}
    for setting in settings:
        predicted, measured = benchmark.measure(setting, "cpu")
        errors[setting.name] = predicted / measured - 1
        print(f"{setting.name:<30}{measured / 1e6:>8.1f}{predicted / 1e6:>8.1f}{errors[setting.name]:>+8.1%}")
    assert all(abs(error) <= 0.15 for error in errors.values()), errors
    assert len(settings) == 10


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_estimates_agree_with_the_gpu_allocator_for_layers_of_the_7b_model(benchmark):
    for setting in benchmark.ON_CUDA:
        predicted, measured = benchmark.measure(setting, "cuda")
        assert predicted == pytest.approx(measured, rel=0.10), setting.name


def test_the_benchmark_uses_the_attention_of_a_run_and_drops_the_model_of_an_earlier_setting(benchmark, monkeypatch):
    earlier, selected = [], []

    class Model(torch.nn.Linear):
        pass

    def model_of(setting, device):
        assert not [model for model in earlier if model() is not None]
        model = Model(1, 1)
        model.itself = [model]  # a reference cycle, as in bitsandbytes' modules
        earlier.append(weakref.ref(model))
        return model

    make = benchmark.model_of
    monkeypatch.setattr(benchmark, "model_of", model_of)
    monkeypatch.setattr(benchmark, "train_step", lambda *_: None)
    monkeypatch.setattr(benchmark, "use_packed_attention", lambda model, *kind: selected.append(kind))
    tiny = benchmark.Geometry(32, 1, 1, 64, 320, 32, 2, 1, 28, 14, 4)
    setting = benchmark.Setting("full, packed frame", tiny, "full", "fp32", rows=1, packed=True)
    gc.disable()
    try:
        for _ in range(2):
            benchmark.measure(setting, "cpu")
    finally:
        gc.enable()
    make(setting, "cpu")
    assert selected == [("auto", "cpu")]


@pytest.mark.parametrize("method", [None, "lora"])
def test_the_estimate_from_arguments_agrees_with_a_run_of_the_trainer(benchmark, toy, tmp_path, method):
    torch.manual_seed(0)
    llama_folder(tmp_path / "llm")
    sizes = dict(hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4)
    LlamaForCausalLM(LlamaConfig(vocab_size=420, max_position_embeddings=256, **sizes)).save_pretrained(
        tmp_path / "llm"
    )
    options = dict(vision_tower=toy.clip, mm_adapter_tokens=3, max_steps=3, gradient_checkpointing=True)
    options |= dict(per_device_train_batch_size=8, pack_frames=False, report_to="none")
    args = parse_arguments(toy.driving_flags(tmp_path / "out", tmp_path / "llm", how=method, **options))
    trainer = build_trainer(args)
    micro_batches, collate = [], trainer.data_collator

    def record_sizes(samples):
        batch = collate(samples)
        images = sum(len(views) for views in batch["images"])
        tokens = batch["input_ids"].shape[1] + 2 * max(len(views) for views in batch["images"])
        micro_batches.append(MicroBatch(len(samples), tokens, int((batch["labels"] != IGNORE_INDEX).sum()), images))
        return batch

    trainer.data_collator = record_sizes
    weights = benchmark.held_bytes(trainer.model)
    with benchmark.counted("cpu") as peak:
        trainer.train()
    shape = ModelShape.from_config(trainer.model.config)
    setup = training_setup(args, shape)
    # The optimizer states exist from the second of the three steps on.
    predicted = max(estimate(shape, replace(setup, micro_batch=size)).allocated for size in micro_batches[1:3])
    assert predicted == pytest.approx(weights + peak[0], rel=0.15)

"""The model with any Llama and any batch: names, mixed image counts, text only, grouped heads, frozen vision tower."""

import pytest
import torch
from safetensors import safe_open
from transformers import CLIPVisionConfig

from senna.model import IGNORE_INDEX, SennaConfig, SennaLlavaLlamaForCausalLM
from tests.helpers.paths import GOLDEN

IMG = -200


def small_config(**changes) -> SennaConfig:
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=28, patch_size=14
    )
    llama = dict(
        vocab_size=50, hidden_size=24, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, tie_word_embeddings=True,
    )  # fmt: skip
    return SennaConfig(**{**llama, "vision_config": vision, "mm_adapter_tokens": 3, **changes})


@pytest.fixture
def small() -> SennaLlavaLlamaForCausalLM:
    """Return a model with grouped-query heads, tied embeddings, 4 patches and 3 tokens per view."""
    torch.manual_seed(0)
    return SennaLlavaLlamaForCausalLM(small_config()).eval()


def views(count, seed=0):
    return torch.randn(count, 3, 28, 28, generator=torch.Generator().manual_seed(seed))


def test_the_7b_model_has_exactly_the_published_names_and_shapes():
    with torch.device("meta"):
        model = SennaLlavaLlamaForCausalLM(SennaConfig())
    ours = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    lines = (line.split("\t") for line in (GOLDEN / "names_7b.txt").read_text().splitlines())
    published = {name: [int(n) for n in shape.strip("[]").split(",")] for name, shape, *_ in lines}
    assert ours == {name: shape for name, shape in published.items() if "rotary_emb" not in name}
    assert sum(p.numel() for p in model.parameters()) == 7_063_009_664


def test_a_published_checkpoint_loads_completely_and_is_saved_under_the_same_names(tmp_path):
    model, info = SennaLlavaLlamaForCausalLM.from_pretrained(GOLDEN / "model_v320", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    model.save_pretrained(tmp_path)
    published = set(safe_open(GOLDEN / "model_v320" / "model.safetensors", "pt").keys())
    saved = set(safe_open(tmp_path / "model.safetensors", "pt").keys())
    assert saved == {name for name in published if "rotary_emb" not in name}
    again, info = SennaLlavaLlamaForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_samples_of_a_mixed_batch_have_the_logits_that_they_have_alone(small):
    rows = [([1, IMG, 5, 6], views(1, 1)), ([7, 8, 9], views(0)), ([2, IMG, 3, IMG, 4], views(2, 2))]
    separate = [
        small(torch.tensor([ids]), images=[image], labels=torch.tensor([ids]).clamp(min=IGNORE_INDEX))
        for ids, image in rows
    ]
    for side in ("right", "left"):
        small.config.tokenizer_padding_side = side
        width = max(len(ids) for ids, _ in rows)
        padding = [[0] * (width - len(ids)) for ids, _ in rows]
        padded = torch.tensor(
            [ids + pad if side == "right" else pad + ids for (ids, _), pad in zip(rows, padding, strict=True)]
        )
        mask = torch.tensor(
            [
                [1] * len(ids) + pad if side == "right" else pad + [1] * len(ids)
                for (ids, _), pad in zip(rows, padding, strict=True)
            ]
        )
        out = small(padded, attention_mask=mask, images=[image for _, image in rows])
        for row, single in enumerate(separate):
            length = single.logits.shape[1]
            ours = out.logits[row, :length] if side == "right" else out.logits[row, -length:]
            torch.testing.assert_close(ours, single.logits[0], atol=1e-5, rtol=0)


def test_images_as_a_tensor_and_as_a_list_give_the_same_logits(small):
    ids = torch.tensor([[1, IMG, IMG, 5], [2, IMG, IMG, 6]])
    images = views(4).view(2, 2, 3, 28, 28)
    assert torch.equal(small(ids, images=images).logits, small(ids, images=list(images)).logits)


def test_training_computes_logits_of_targets_only(small):
    rows = torch.tensor([[1, IMG, 5, 6, 7]])
    labels = torch.tensor([[IGNORE_INDEX, IGNORE_INDEX, IGNORE_INDEX, 6, 7]])
    seen = []
    small.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    full = small(rows, images=[views(1)], labels=labels)
    small.train()
    out = small(rows, images=[views(1)], labels=labels)
    assert out.logits is None
    assert seen[-1] == (2, 50)
    torch.testing.assert_close(out.loss, full.loss)


def test_the_loss_is_divided_by_a_given_number_of_items(small):
    rows = torch.tensor([[1, 5, 6, 7]])
    mean = small(rows, labels=rows).loss
    torch.testing.assert_close(small(rows, labels=rows, num_items_in_batch=torch.tensor(12)).loss, mean * 3 / 12)


def test_a_batch_without_a_target_has_zero_loss_and_finite_gradients(small):
    small.train()
    loss = small(torch.tensor([[1, 5, 6]]), labels=torch.full((1, 3), IGNORE_INDEX)).loss
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert all(torch.isfinite(p.grad).all() for p in small.parameters() if p.grad is not None)


def test_a_batch_of_text_only_gives_the_adapters_a_zero_gradient_instead_of_none(small):
    small.requires_grad_(False)
    adapters = [*small.model.mm_projector.parameters(), *small.model.img_adapter.parameters()]
    for parameter in adapters:
        parameter.requires_grad_(True)
    small.train()
    small(torch.tensor([[1, 5, 6]]), labels=torch.tensor([[1, 5, 6]])).loss.backward()
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in adapters)


def test_the_tower_runs_only_the_needed_layers_and_stays_frozen_in_evaluation_mode(small):
    clip = small.model.vision_tower.vision_tower.vision_model
    ran = []
    for index, layer in enumerate(clip.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: ran.append(index))
    small.train()
    features = small.model.vision_tower(views(2))
    assert ran == [0, 1]  # hidden_states[-2] of three layers
    with torch.no_grad():
        expected = clip(views(2), output_hidden_states=True).hidden_states[-2][:, 1:]
    assert torch.equal(features, expected)
    assert not features.requires_grad
    assert not clip.training
    assert small.training


@pytest.mark.parametrize(("select", "layers"), [(-1, 3), (-3, 1), (0, 0), (2, 2), (3, 3)])
def test_any_tower_layer_can_be_selected(small, select, layers):
    model = SennaLlavaLlamaForCausalLM(small_config(mm_vision_select_layer=select)).eval()
    clip = model.model.vision_tower.vision_tower.vision_model
    assert model.config.vision_layers == layers
    with torch.no_grad():
        expected = clip(views(1), output_hidden_states=True).hidden_states[select][:, 1:]
    assert torch.equal(model.model.vision_tower(views(1)), expected)


def test_a_selected_layer_beyond_the_tower_is_refused():
    with pytest.raises(Exception, match="the tower has 3 layers"):
        small_config(mm_vision_select_layer=-5)


def test_new_adapters_are_initialized_as_in_the_published_stage_1():
    torch.manual_seed(0)
    adapter = SennaLlavaLlamaForCausalLM(
        SennaConfig(**{**small_config().to_dict(), "mm_adapter_tokens": 128})
    ).model.img_adapter
    assert all(not layer.bias.any() for layer in adapter.adapter[::2])
    assert float(adapter.adapter[2].weight.detach().std()) == pytest.approx(0.01, rel=0.05)


def test_generation_from_a_padded_batch_equals_generation_from_each_prompt_alone(small):
    prompts = [([1, IMG, 5, 6], views(1, 1)), ([7, 8], views(0))]
    separate = [
        small.generate(torch.tensor([ids]), images=[image], max_new_tokens=5, eos_token_id=None)
        for ids, image in prompts
    ]
    ids, mask = torch.tensor([[1, IMG, 5, 6], [7, 8, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    batched = small.generate(
        ids, images=[image for _, image in prompts], attention_mask=mask, max_new_tokens=5, eos_token_id=None
    )
    assert batched.tolist() == [row[0].tolist() for row in separate]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention needs a CUDA device")
def test_flash_attention_equals_sdpa_in_bf16():
    pytest.importorskip("flash_attn", reason="flash-attn is not installed")
    models = [
        SennaLlavaLlamaForCausalLM.from_pretrained(
            GOLDEN / "model_v320", dtype=torch.bfloat16, attn_implementation=name
        ).cuda()
        for name in ("sdpa", "flash_attention_2")
    ]
    ids = torch.tensor([[1, IMG, 5, 6, 7]]).cuda()
    image = torch.randn(1, 1, 3, 336, 336).cuda()
    ours, flash = (model(ids, images=image).logits.float() for model in models)
    torch.testing.assert_close(ours, flash, atol=0.3, rtol=0)

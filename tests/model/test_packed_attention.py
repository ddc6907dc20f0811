"""Every implementation of packed attention equals the attention of each record by itself."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from senna.errors import UsageError
from senna.model import packed_attention as implementations
from senna.model.layout import Tree
from senna.model.packed_attention import PACKED, PackedAttention, packed_attention, packed_kind, use_packed_attention
from senna.model.split_attention import pad_trees, split_by_padding
from senna.model.split_attention_cpu import visible_parts

LAYOUTS = {  # name: rows, length, layout
    "tree and padding": (1, 40, (Tree(0, 0, 9, (5, 1, 12, 3)),)),
    "several trees and rows": (
        2,
        44,
        (Tree(0, 0, 9, (5, 8)), Tree(0, 22, 7), Tree(0, 29, 1, (1, 6)), Tree(1, 0, 1, (30, 2))),
    ),
    "plain sequence": (1, 17, (Tree(0, 0, 17),)),
    "one token": (1, 1, (Tree(0, 0, 1),)),
    "several blocks": (1, 900, (Tree(0, 0, 150, (131, 300)), Tree(0, 581, 128, (1, 127)))),
    "long prefix": (1, 1200, (Tree(0, 0, 800, (140, 257)),)),
    "branches of branches": (
        2,
        60,
        (Tree(0, 2, 9, (7, 3, 4, 12, 5), (-1, 0, 0, -1, 3)), Tree(1, 0, 3, (2, 6, 1, 1, 8), (-1, 0, 1, 0, -1))),
    ),
    "answers to a question": (1, 420, (Tree(0, 0, 170, (70, 7, 5, 40, 6, 90), (-1, 0, 0, 0, 0, -1)),)),
}


def draw(rows, length, heads=3, width=16, kv_heads=None, dtype=torch.float32, seed=0):
    """Return query, key and value, (B, H, L, D) views of (B, L, H, D) as in LlamaAttention, and a gradient (B, L, H, D)."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v, grad = (
        torch.randn(rows, length, n, width, generator=generator).to(dtype)
        for n in (heads, kv_heads or heads, kv_heads or heads, heads)
    )
    return [x.transpose(1, 2).requires_grad_() for x in (q, k, v)], grad


def run(kind, tensors, layout, scaling=None, module=None):
    q, k, v = tensors
    packed = PackedAttention(layout, kind, q.shape[0], q.shape[2], v.dtype, v.device)
    return packed_attention(
        kind, module or nn.Module(), q, k, v, packed.attention_mask, scaling=scaling, packed=packed
    )[0]


def run_by_padding(tensors, layout, scaling=None):
    q, k, v = tensors
    rows, heads, length, _ = q.shape
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    return split_by_padding(q, k, v, scaling, pad_trees(layout, rows, length, v.dtype, v.device))


IMPLEMENTATIONS = {
    "split": lambda *args, **kwargs: run("split", *args, **kwargs),
    "split by padding": run_by_padding,
    "dense": lambda *args, **kwargs: run("dense", *args, **kwargs),
}
every_implementation = pytest.mark.parametrize("attend", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)


def columns_of(tree):
    """Return (columns of all that it continues, own columns) of the prefix and of every branch."""
    start = tree.start + tree.prefix
    found = [([], list(range(tree.start, start)))]
    for length, parent in zip(tree.branches, tree.parents or (-1,) * len(tree.branches), strict=True):
        found.append(([*found[parent + 1][0], *found[parent + 1][1]], list(range(start, start + length))))
        start += length
    return found


def attend_separately(tensors, layout, scaling=None):
    """Compute every prefix, and every branch with all that it continues, in fp64 -> (B, L, H, D), zero at padding."""
    q, k, v = (x.double() for x in tensors)
    heads, width = q.shape[1], q.shape[3]
    k, v = (x.repeat_interleave(heads // x.shape[1], dim=1) for x in (k, v))
    pieces = {}
    for tree in layout:
        for context, own in columns_of(tree):
            columns = context + own
            a, b, c = (x[tree.row, :, columns] for x in (q, k, v))  # (H, n, D)
            scores = a @ b.transpose(1, 2) * (scaling or width**-0.5)
            future = torch.ones(len(columns), len(columns), dtype=torch.bool).triu(1)
            result = (scores.masked_fill(future, float("-inf")).softmax(-1) @ c).transpose(0, 1)
            pieces |= {(tree.row, column): x for column, x in zip(own, result[len(context) :], strict=True)}
    zero = q.new_zeros(heads, width)
    return torch.stack(
        [torch.stack([pieces.get((row, i), zero) for i in range(q.shape[2])]) for row in range(q.shape[0])]
    )


def covered(layout, rows, length):
    """Return a (B, L) mask, False at padding."""
    mask = torch.zeros(rows, length, dtype=torch.bool)
    for tree in layout:
        mask[tree.row, tree.start : tree.stop] = True
    return mask


def results_and_gradients(attend, tensors, grad, layout, **kwargs):
    """Return the output and the gradients of query, key and value, for a loss that ignores padding."""
    real = covered(layout, grad.shape[0], grad.shape[1])[..., None, None]
    out = attend(tensors, layout, **kwargs)
    return [out.detach() * real, *torch.autograd.grad((out * grad.to(out.dtype) * real).sum(), tensors)]


def relative(a, b):
    """Return the relative L2 distance. The floor is for a single token, whose gradients are rounding errors only."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp(min=1.0)).item()


@every_implementation
@pytest.mark.parametrize("name", LAYOUTS)
def test_outputs_and_gradients_equal_those_of_each_record_alone(name, attend):
    rows, length, layout = LAYOUTS[name]
    tensors, grad = draw(rows, length)
    expected = results_and_gradients(attend_separately, tensors, grad, layout)
    for got, want in zip(results_and_gradients(attend, tensors, grad, layout), expected, strict=True):
        assert got.dtype == torch.float32
        assert relative(got, want) < 2e-6


@every_implementation
def test_in_fp64_they_agree_to_fp64_precision(attend):
    rows, length, layout = LAYOUTS["several trees and rows"]
    tensors, grad = draw(rows, length, dtype=torch.float64)
    expected = results_and_gradients(attend_separately, tensors, grad, layout)
    for got, want in zip(results_and_gradients(attend, tensors, grad, layout), expected, strict=True):
        assert relative(got, want) < 1e-12


@every_implementation
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(2, 2, 64), (2, 2, 80), (2, 2, 128), (6, 2, 16), (4, 1, 64)])
def test_other_head_widths_grouped_heads_and_a_given_scale_agree(attend, heads, kv_heads, width):
    rows, length, layout = LAYOUTS["several trees and rows"]
    tensors, grad = draw(rows, length, heads, width, kv_heads)
    expected = results_and_gradients(attend_separately, tensors, grad, layout, scaling=0.3)
    for got, want in zip(results_and_gradients(attend, tensors, grad, layout, scaling=0.3), expected, strict=True):
        assert relative(got, want) < 2e-6


@every_implementation
@pytest.mark.parametrize("name", ["several trees and rows", "long prefix"])
def test_in_bf16_they_agree_to_bf16_precision(name, attend):
    rows, length, layout = LAYOUTS[name]
    tensors, grad = draw(rows, length, dtype=torch.bfloat16)
    expected = results_and_gradients(attend_separately, tensors, grad, layout)
    for got, want in zip(results_and_gradients(attend, tensors, grad, layout), expected, strict=True):
        assert got.dtype == torch.bfloat16
        assert relative(got, want) < 0.01


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@every_implementation
def test_a_branch_is_bitwise_unchanged_when_another_changes(attend, dtype):
    rows, length, layout = LAYOUTS["several blocks"]
    tensors, _ = draw(rows, length, dtype=dtype)
    changed = [x.detach().clone() for x in tensors]
    for x in changed:
        x[:, :, 150:281] = torch.randn_like(x[:, :, 150:281])  # the first branch of the first tree
    before, after = attend(tensors, layout), attend(changed, layout)
    same = (before == after).flatten(2).all(-1)[0]
    assert not same[150:281].any()
    assert same[:150].all()
    assert same[281:].all()


@pytest.mark.parametrize("name", ["split", "split by padding"])
def test_padding_is_zero_and_has_no_gradient_even_if_the_loss_reads_it(name):
    rows, length, layout = LAYOUTS["tree and padding"]
    tensors, grad = draw(rows, length)
    out = IMPLEMENTATIONS[name](tensors, layout)
    assert (out[:, 30:] == 0).all()
    for x in torch.autograd.grad((out * grad).sum(), tensors):
        assert (x[:, :, 30:] == 0).all()


def test_dense_padding_is_finite():
    rows, length, layout = LAYOUTS["tree and padding"]
    tensors, _ = draw(rows, length)
    assert IMPLEMENTATIONS["dense"](tensors, layout).isfinite().all()


@every_implementation
def test_tensors_may_have_any_strides(attend):
    rows, length, layout = LAYOUTS["several trees and rows"]
    tensors, grad = draw(rows, length)
    expected = results_and_gradients(attend, tensors, grad, layout)
    strided = [x.detach().transpose(1, 3).contiguous().transpose(1, 3).requires_grad_() for x in tensors]
    for got, want in zip(results_and_gradients(attend, strided, grad, layout), expected, strict=True):
        assert relative(got, want) < 1e-6


def test_the_parts_cover_each_visible_pair_once():
    for rows, length, layout in LAYOUTS.values():
        times = torch.zeros(rows, length, length, dtype=torch.long)
        parts = visible_parts(layout)
        if parts.short:
            for branch_rows, branch_columns, is_token in zip(*parts.short[:3], strict=True):
                tokens = branch_columns[is_token]
                times[branch_rows[0], tokens[:, None], tokens] += torch.ones(len(tokens), len(tokens)).long().tril()
        for row, queries, keys, causal in parts.rectangles:
            part = torch.ones(queries.stop - queries.start, keys.stop - keys.start, dtype=torch.long)
            times[row, queries, keys] += part.tril() if causal else part
        dense = PackedAttention(layout, "dense", rows, length, torch.float32, "cpu").dense_mask[:, 0] == 0
        real = covered(layout, rows, length)
        assert torch.equal(times, (dense & real[:, None] & real[..., None]).long())


def test_branches_of_few_tokens_are_computed_together():
    answers = Tree(0, 0, 257, (5, 7, 4, 32, 33))
    parts = visible_parts((answers, Tree(1, 0, 183, (140, 6))))
    assert parts.short.is_token.sum(dim=1).tolist() == [5, 7, 4, 32, 6]
    assert parts.short.rows[:, 0].tolist() == [0, 0, 0, 0, 1]


def test_the_precision_of_other_matrix_products_is_restored():
    before = torch.get_float32_matmul_precision()
    _, _, layout = LAYOUTS["long prefix"]
    tensors, grad = draw(1, 1200, dtype=torch.bfloat16)
    results_and_gradients(IMPLEMENTATIONS["split"], tensors, grad, layout)
    assert torch.get_float32_matmul_precision() == before


def test_flex_equals_dense_and_refuses_to_train_on_cpu():
    rows, length, layout = LAYOUTS["several trees and rows"]
    tensors, _ = draw(rows, length, heads=4, kv_heads=2)
    with pytest.raises(UsageError, match="no gradient on CPU"):
        run("flex", tensors, layout)
    tensors, real = [x.detach() for x in tensors], covered(layout, rows, length)
    assert relative(run("flex", tensors, layout)[real], run("dense", tensors, layout)[real]) < 1e-6


# Through a model -----------------------------------------------------------------------------------------------------


def llama(kind="split", **changes) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **{
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 50,
            "initializer_range": 0.2,
        }
        | changes
    )
    model = LlamaForCausalLM(config).train()
    use_packed_attention(model, kind)
    return model


LAYOUT = (Tree(0, 0, 9, (5, 1, 12), (-1, 0, 0)), Tree(0, 27, 6), Tree(1, 0, 4, (20, 3)))
ROWS, LENGTH = 2, 35


def packed_batch():
    """Return token ids and positions, (B, L) each. Positions of a branch continue those of what it continues."""
    ids = torch.randint(0, 50, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    positions = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    for tree in LAYOUT:
        for context, own in columns_of(tree):
            positions[tree.row, own] = torch.arange(len(own)) + len(context)
    return ids, positions


def packed_hidden(model) -> torch.Tensor:
    """Return the (B, L, D) hidden states of the packed rows."""
    ids, positions = packed_batch()
    packed = PackedAttention(LAYOUT, packed_kind(model.config), ROWS, LENGTH, model.dtype, model.device)
    return model.model(
        input_ids=ids,
        position_ids=positions,
        attention_mask=packed.attention_mask,
        packed=packed,
        use_cache=False,
    ).last_hidden_state


def separate_hidden(model) -> torch.Tensor:
    """Return the same (B, L, D) hidden states computed record by record; zero at padding."""
    ids, _ = packed_batch()
    hidden = torch.zeros(ROWS, LENGTH, model.config.hidden_size)
    for tree in LAYOUT:
        for context, own in columns_of(tree):
            states = model.model(input_ids=ids[tree.row, context + own][None], use_cache=False).last_hidden_state[0]
            indices = torch.tensor([tree.row * LENGTH + column for column in own])
            hidden = (
                hidden.view(-1, hidden.shape[-1]).index_put((indices,), states[-len(own) :].float()).view_as(hidden)
            )
    return hidden


def gradients(model, hidden) -> dict[str, torch.Tensor]:
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(2))
    model.zero_grad()
    (hidden.float() * weights * covered(LAYOUT, ROWS, LENGTH)[..., None]).sum().backward()
    return {name: p.grad.clone() for name, p in model.model.named_parameters()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["split", "dense"])
def test_hidden_states_and_gradients_of_a_model_equal_those_of_separate_sequences(kind, checkpointing):
    model = llama(kind)
    separate = separate_hidden(model)
    expected = gradients(model, separate)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    hidden = packed_hidden(model)
    real = covered(LAYOUT, ROWS, LENGTH)
    assert (hidden - separate)[real].abs().max() < 1e-5
    for name, gradient in gradients(model, hidden).items():
        assert relative(gradient, expected[name]) < 1e-5, name


@pytest.mark.parametrize("kind", ["split", "dense"])
def test_under_autocast_attention_runs_in_bf16(kind):
    model = llama(kind)
    exact = separate_hidden(model)
    with torch.autocast("cpu", torch.bfloat16):
        seen = []
        hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(
            lambda _, args: seen.append(args[0].dtype)
        )
        hidden = packed_hidden(model)
        hook.remove()
    assert seen == [torch.bfloat16]
    real = covered(LAYOUT, ROWS, LENGTH)
    assert relative(hidden[real], exact[real]) < 0.03
    assert all(gradient.isfinite().all() for gradient in gradients(model, hidden).values())


def test_unpacked_batches_and_generation_equal_sdpa():
    model, ids = llama("split").eval(), torch.randint(3, 50, (2, 7), generator=torch.Generator().manual_seed(3))
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    got = model(input_ids=ids, attention_mask=mask).logits
    tokens = model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False)
    model.set_attn_implementation("sdpa")
    assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, got)
    assert torch.equal(model.generate(ids, attention_mask=mask, max_new_tokens=4, do_sample=False), tokens)


@pytest.fixture
def flex_gradients(monkeypatch):
    """Flex attention with gradients on a CPU, which refuses them: compiled for autograd, but run operation by operation."""
    monkeypatch.setattr("torch.nn.attention.flex_attention._validate_device", lambda *_: None)
    torch._dynamo.reset()
    attend = torch.compile(flex_attention, backend="aot_eager", dynamic=True)

    def flex(query, key, value, scale, packed):
        return attend(query, key, value, block_mask=packed.block_mask, scale=scale).transpose(1, 2)

    monkeypatch.setattr(implementations, "flex", flex)
    yield
    torch._dynamo.reset()


def test_loss_and_gradients_of_flex_equal_those_of_dense(flex_gradients):
    for name in ("tree and padding", "several trees and rows"):
        rows, length, layout = LAYOUTS[name]
        real = covered(layout, rows, length)[..., None, None]
        tensors, weights = draw(rows, length, heads=4, kv_heads=2)
        losses, gradients = {}, {}
        for kind in ("dense", "flex"):
            losses[kind] = (run(kind, tensors, layout) * weights * real).sum()
            gradients[kind] = torch.autograd.grad(losses[kind], tensors)
        torch.testing.assert_close(losses["flex"], losses["dense"], rtol=1e-5, atol=1e-5)
        for actual, expected in zip(gradients["flex"], gradients["dense"], strict=True):
            assert relative(actual, expected) < 1e-5


def test_flex_is_compiled_for_rows_of_any_length(monkeypatch):
    options = {}
    monkeypatch.setattr("torch.compile", lambda function, **given: options.update(given))
    implementations._compiled_flex.__wrapped__()
    assert options == {"dynamic": True}


def test_auto_falls_back_to_split_with_a_warning_where_flex_does_not_work(model, monkeypatch, caplog):
    def no_compiler(*arguments):
        raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

    monkeypatch.setattr(implementations, "flex", no_compiler)
    tried, reason = [], implementations.flex_problem.__wrapped__("cpu")
    assert "Failed to find C compiler" in reason
    monkeypatch.setattr(implementations, "flex_problem", lambda *given: tried.append(given) or reason)
    use_packed_attention(model, "auto", "cuda")
    assert model.config._attn_implementation == PACKED["split"]
    assert "Failed to find C compiler" in caplog.text
    monkeypatch.setattr(implementations, "flex_problem", lambda *given: tried.append(given))
    use_packed_attention(model, "auto", "cuda", torch.bfloat16)
    assert model.config._attn_implementation == PACKED["flex"]
    width = model.config.head_dim  # the kernels are compiled for the width and the precision of the run
    assert tried == [("cuda", width, torch.float32), ("cuda", width, torch.bfloat16)]


def test_the_trial_of_flex_passes_where_it_has_gradients(flex_gradients):
    assert implementations.flex_problem.__wrapped__("cpu", 64, torch.float32) is None


# Errors --------------------------------------------------------------------------------------------------------------


def test_the_vision_tower_keeps_its_attention(model):
    tower = model.config.vision_config._attn_implementation
    use_packed_attention(model, "auto")
    assert model.config._attn_implementation == PACKED["split"]
    assert model.config.vision_config._attn_implementation == tower
    assert all(layer.self_attn.config._attn_implementation == PACKED["split"] for layer in model.model.layers)
    tower_config = model.model.vision_tower.vision_tower.vision_model.config
    assert tower_config._attn_implementation == tower
    assert "attn_implementation" not in str(model.config.to_dict())


@pytest.mark.parametrize("kind", ["flex", "flash_attention_2"])
def test_a_kind_that_cannot_run_is_refused(kind):
    with pytest.raises(UsageError, match=kind):
        llama(kind)


def test_attention_dropout_is_refused():
    with pytest.raises(UsageError, match=r"dropout is 0\.1"):
        llama(attention_dropout=0.1)


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_an_attention_that_would_mix_branches_is_refused(name):
    with pytest.raises(UsageError, match=name):
        packed_kind(SimpleNamespace(_attn_implementation=name, attention_dropout=0.0))


def test_a_layout_made_for_another_kind_or_shape_is_refused():
    (q, k, v), _ = draw(1, 17)
    packed = PackedAttention((Tree(0, 0, 17),), "dense", 1, 17, torch.float32, "cpu")
    forward = ALL_ATTENTION_FUNCTIONS[PACKED["split"]]
    with pytest.raises(UsageError, match="dense"):
        forward(nn.Module(), q, k, v, None, packed=packed)
    packed = PackedAttention((Tree(0, 0, 17),), "split", 1, 18, torch.float32, "cpu")
    with pytest.raises(ValueError, match="18 tokens"):
        forward(nn.Module(), q, k, v, None, packed=packed)


@pytest.mark.parametrize(
    "layout",
    [
        (Tree(0, 0, 5, (3, 0)),),
        (Tree(0, 0, 0, (3,)),),
        (Tree(0, 0, 5, (6,)),),
        (Tree(1, 0, 5),),
        (Tree(0, 0, 5), Tree(0, 4, 2)),
        (Tree(0, 0, 2, (1, 1, 1), (-1, 0)),),  # a parent is missing
        (Tree(0, 0, 2, (1, 1), (0, -1)),),  # a branch before its parent
        (Tree(0, 0, 2, (1, 1, 1), (-1, -1, 0)),),  # another branch lies between a branch and its parent
    ],
)
def test_a_layout_that_does_not_fit_is_refused(layout):
    with pytest.raises(ValueError, match="Tree"):
        PackedAttention(layout, "split", 1, 10, torch.float32, "cpu")

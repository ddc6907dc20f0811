"""The driving vision-language model: CLIP tower, projector, driving vision adapter, splice, Llama.

Shapes: B samples or packed rows, V views per sample, N images in the batch, H x W pixels, P patch tokens per image, C vision
tower width, K tokens per view, T prompt tokens, L spliced length, D LLM width, R records, M targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from senna.model.adapter import AdapterLinear, DrivingVisionAdapter, Projector, ProjectorLinear
from senna.model.choices import Choices, choice_losses
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, SennaConfig
from senna.model.layout import Layout
from senna.model.packed_attention import PackedAttention, packed_kind
from senna.model.source import ModelSource
from senna.model.splice import Splice, compute_splice, splice_embeddings
from senna.model.vision_tower import VisionTower

Images = torch.Tensor | Sequence[torch.Tensor] | None
"""(B, V, 3, H, W); or B tensors (V_i, 3, H, W) if V differs, with V_i = 0 for a sample of text only; or None.

uint8 levels as `senna.data.load_image` returns them, or float pixels that are normalized for the vision tower."""


def flatten_images(images: Images, batch: int) -> tuple[torch.Tensor | None, list[int]]:
    """Return all images of a batch as one (N, 3, H, W) tensor (None if there are none), and the number of images per sample.

    Raises ValueError for images of another number of samples or another shape.
    """
    if images is None:
        return None, [0] * batch
    if isinstance(images, torch.Tensor) and images.dim() != 5:
        raise ValueError(f"images must be (B, V, 3, H, W), or a list of (V, 3, H, W); got {tuple(images.shape)}")
    if len(images) != batch:
        raise ValueError(f"images of {len(images)} samples for a batch of {batch}")
    counts = [len(views) for views in images]
    if not sum(counts):
        return None, counts
    if isinstance(images, torch.Tensor):
        return images.flatten(0, 1), counts  # no copy
    return torch.cat([views for views in images if len(views)]), counts


@dataclass
class SennaOutput(CausalLMOutputWithPast):
    """The output of a forward pass. The additional fields are for logs and have no gradient.

    Attributes:
        sample_losses: (R,) fp32, each record's cross-entropy summed over its targets.
        sample_targets: (R,) each record's number of targets.
    """

    sample_losses: torch.Tensor | None = None
    sample_targets: torch.Tensor | None = None


@dataclass(frozen=True)
class Targets:
    """The tokens to predict in a batch.

    Attributes:
        positions: (M,) flat indices (row * L + column) of the hidden states that predict the targets.
        token_ids: (M,) the targets.
        records: (M,) the record that each target belongs to, in [0, R).
        num_records: R.
    """

    positions: torch.Tensor
    token_ids: torch.Tensor
    records: torch.Tensor
    num_records: int

    @classmethod
    def from_rows(cls, labels: torch.Tensor) -> "Targets":
        """Return the targets of (B, L) labels in which each row is one record."""
        row, column = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)  # (M,) each
        return cls(row * labels.shape[1] + column, labels[row, column + 1], row, len(labels))

    @classmethod
    def from_packed(
        cls, labels: torch.Tensor, positions: torch.Tensor, records: torch.Tensor, num_records: int
    ) -> "Targets":
        """Return the targets of packed (B, L) labels whose positions are known. Does not synchronize with the device."""
        return cls(positions, labels.flatten()[positions + 1], records, num_records)


class SennaLlavaLlamaModel(LlamaModel):
    """A Llama with a vision tower, a projector and a driving vision adapter as further submodules."""

    config_class = SennaConfig

    def __init__(self, config: SennaConfig):
        config.check_tower()
        super().__init__(config)
        self.vision_tower = VisionTower(config)
        self.mm_projector = Projector(config.tower_config.hidden_size, config.hidden_size)
        self.img_adapter = DrivingVisionAdapter(config.patch_tokens, config.mm_adapter_tokens)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ProjectorLinear | AdapterLinear):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Encode (N, 3, H, W) pixels to (N, K, D) view tokens, all images in one call."""
        features = self.vision_tower(images)  # (N, P, C)
        projected = self.mm_projector(features.to(self.mm_projector[0].weight.dtype))  # (N, P, D)
        return self.img_adapter(projected)  # (N, K, D)


class SennaLlavaLlamaForCausalLM(LlamaForCausalLM):
    """The Senna model. Parameter names and shapes equal those of the published checkpoints."""

    config: SennaConfig
    config_class = SennaConfig
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq", r"embeddings\.position_ids"]  # noqa: RUF012

    def __init__(self, config: SennaConfig):
        LlamaPreTrainedModel.__init__(self, config)  # LlamaForCausalLM.__init__ would build the Llama twice
        self.model = SennaLlavaLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, trust_remote_code=False, **kwargs):
        """Load a checkpoint as transformers does. Without ``config``, add the vision tower's geometry to a published one.

        Code in the checkpoint's folder is never run: ``trust_remote_code`` is accepted and ignored.
        """
        if config is None:
            config = ModelSource.resolve(str(pretrained_model_name_or_path)).config
        return super().from_pretrained(
            pretrained_model_name_or_path, *args, config=config, trust_remote_code=False, **kwargs
        )

    def compute_splice(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        labels: torch.Tensor | None,
        images_per_sample: list[int],
    ) -> Splice:
        """Return the splice of a training or scoring batch, with this model's padding side and maximum length.

        See `senna.model.splice.compute_splice` for the arguments.
        """
        return compute_splice(
            input_ids,
            attention_mask,
            labels,
            images_per_sample,
            tokens_per_image=self.config.mm_adapter_tokens,
            max_length=self.config.tokenizer_model_max_length,
            padding_side=self.config.tokenizer_padding_side,
        )

    def embed(self, input_ids: torch.Tensor, images: torch.Tensor | None, source: torch.Tensor) -> torch.Tensor:
        """Return the (B, L, D) spliced embeddings of (B, T) ids and (N, 3, H, W) images.

        ``source`` is (B, L), see `Splice`.
        """
        text = self.model.embed_tokens(input_ids.where(input_ids != IMAGE_TOKEN_INDEX, 0))  # (B, T, D)
        if images is not None:
            return splice_embeddings(source, text, self.model.encode_images(images))
        no_views = text.new_zeros(0, self.config.mm_adapter_tokens, text.shape[-1])  # (0, K, D)
        spliced = splice_embeddings(source, text, no_views)  # (B, L, D)
        adapters = [*self.model.mm_projector.parameters(), *self.model.img_adapter.parameters()]
        needs_gradient = self.training and any(p.requires_grad for p in adapters)
        if not needs_gradient and not any(hasattr(p, "ds_id") for p in adapters):
            return spliced
        # Encode an empty image with weight 0. Otherwise a batch of text would give projector and adapter no gradient, and
        # other ranks, which gather (ZeRO-3, in validation too) or reduce these weights now, would wait forever.
        side = self.config.image_side
        return spliced + 0.0 * self.model.encode_images(text.new_zeros(1, 3, side, side)).sum()

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        images: Images = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        loss_weight: str = "token",
        layout: Layout | None = None,
        **kwargs: Any,
    ) -> SennaOutput:
        """Run the model. Prompts (``input_ids`` without a cache) are spliced first; ``inputs_embeds`` are used unchanged.

        Args:
            input_ids: (B, T), -200 for an image.
            attention_mask: (B, T), nonzero at real tokens.
            labels: (B, T), -100 without a target.
            images: see `Images`.
            num_items_in_batch: divisor of the summed loss; default: the number of items in this batch.
            loss_weight: the items that have equal weight: "token" for targets, "record" for records.
            layout: makes this a packed batch, see `forward_packed`.

        Returns:
            The loss, a mean in fp32 (0 if the batch has no target), and logits (B, L, vocabulary). With labels in training
            mode, the LLM's head runs at the targets only and ``logits`` is None.
        """
        if layout is not None:
            return self.forward_packed(
                layout, input_ids, position_ids, labels, images, num_items_in_batch, loss_weight, **kwargs
            )
        if input_ids is not None and inputs_embeds is None and past_key_values is None:
            pixels, counts = flatten_images(images, len(input_ids))  # (N, 3, H, W)
            splice = self.compute_splice(input_ids, attention_mask, labels, counts)
            inputs_embeds = self.embed(input_ids, pixels, splice.source)  # (B, L, D)
            labels, position_ids = splice.labels, splice.position_ids  # (B, L) each
            # Causality alone hides padding on the right from real tokens, and attention without a mask is the fast path.
            needs_mask = use_cache or self.config.tokenizer_padding_side == "left"
            attention_mask, input_ids = splice.attention_mask if needs_mask else None, None
        outputs = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, inputs_embeds=inputs_embeds, use_cache=use_cache, **kwargs,
        )  # fmt: skip
        hidden, loss_fields = outputs.last_hidden_state, {}  # (B, L, D)
        if labels is not None:
            targets = Targets.from_rows(labels)
            losses, _ = self.target_losses(hidden, targets)  # (M,)
            loss_fields = reduce_loss(losses, targets.records, targets.num_records, num_items_in_batch, loss_weight)
        logits = None
        if labels is None or not self.training:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden[:, kept])  # (B, L, vocabulary)
        other = {name: getattr(outputs, name) for name in ("past_key_values", "hidden_states", "attentions")}
        return SennaOutput(**loss_fields, **other, logits=logits)

    def forward_packed(
        self,
        layout: Layout,
        input_ids: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        labels: torch.Tensor | None,
        images: Images,
        num_items_in_batch: torch.Tensor | int | None = None,
        loss_weight: str = "token",
        *,
        source: torch.Tensor,
        target_positions: torch.Tensor,
        target_records: torch.Tensor,
        num_records: int,
        choices: Choices | None = None,
    ) -> SennaOutput:
        """Run the model on packed rows of trees: a prefix, and branches that continue it and do not see each other.

        The arguments are a batch of `senna.data.PackCollator`, which describes them; ``images`` is (N, 3, H, W) or None. Loss
        and gradient equal those of the records computed separately. The head runs at the targets only; ``logits`` is
        (M, vocabulary), and None in training mode. With ``choices``, the loss of some records is a cross-entropy among answers.
        Raises ValueError if ids, positions or labels are missing.
        """
        if input_ids is None or position_ids is None or labels is None:
            raise ValueError("a packed batch needs input_ids, position_ids and labels")
        embeds = self.embed(input_ids, cast("torch.Tensor | None", images), source)  # (B, L, D)
        packed = PackedAttention(
            layout, packed_kind(self.config), embeds.shape[0], embeds.shape[1], embeds.dtype, embeds.device
        )
        hidden = self.model(
            inputs_embeds=embeds,
            attention_mask=packed.attention_mask,
            position_ids=position_ids,
            packed=packed,
            use_cache=False,
        ).last_hidden_state  # (B, L, D)
        targets = Targets.from_packed(labels, target_positions, target_records, num_records)
        losses, logits = self.target_losses(hidden, targets)  # (M,), (M, vocabulary)
        records = target_records
        if choices is not None:
            losses, records = choice_losses(losses, records, choices)
        loss_fields = reduce_loss(losses, records, num_records, num_items_in_batch, loss_weight)
        return SennaOutput(**loss_fields, logits=None if self.training else logits)

    def target_losses(self, hidden: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cross-entropies (M,) in fp32 and logits (M, vocabulary) at the targets, from (B, L, D) hidden states."""
        logits = self.lm_head(hidden.flatten(0, 1).index_select(0, targets.positions))  # (M, vocabulary)
        return F.cross_entropy(logits.float(), targets.token_ids, reduction="none"), logits

    @torch.no_grad()
    def generate(self, inputs=None, images: Images = None, attention_mask=None, **kwargs):
        """Continue (B, T) prompts. Return only the new tokens, (B, new). Prompts may be padded on either side.

        Args:
            inputs: (B, T), -200 for an image; ``input_ids`` is accepted too.
            images: see `Images`.
            attention_mask: (B, T), nonzero at real tokens; None: all tokens are real.
            kwargs: arguments of transformers' ``generate``.
        """
        generate = cast(Any, super()).generate  # transformers' types do not admit a subclass of Llama
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            return generate(attention_mask=attention_mask, **kwargs)
        pixels, counts = flatten_images(images, len(input_ids))  # (N, 3, H, W)
        # Prompts are never cut, since they end with the question. Padding is on the left, so that new tokens follow real ones.
        splice = compute_splice(input_ids, attention_mask, None, counts, self.config.mm_adapter_tokens, None, "left")
        embeds = self.embed(input_ids, pixels, splice.source)  # (B, L, D)
        return generate(inputs_embeds=embeds, attention_mask=splice.attention_mask.long(), **kwargs)


def reduce_loss(
    losses: torch.Tensor, records: torch.Tensor, num_records: int, num_items: torch.Tensor | int | None, weight: str
) -> dict:
    """Sum losses, divide by ``num_items``, and return the fields ``loss``, ``sample_losses`` and ``sample_targets``.

    Args:
        losses: (M,), one for each target.
        records: (M,), the record that each target belongs to, in [0, R).
        num_records: R.
        num_items: default: the batch's targets, or its records that have targets.
        weight: "token" gives all targets equal weight, "record" all records.
    """
    zeros = losses.new_zeros(num_records)  # (R,)
    counts = zeros.index_add(0, records, torch.ones_like(losses))  # (R,)
    by_record = zeros.index_add(0, records, losses.detach())  # (R,)
    if weight == "record":
        losses = losses / counts[records]  # (M,)
    if num_items is None:
        num_items = (counts > 0).sum() if weight == "record" else len(losses)
    total = losses.sum() / torch.as_tensor(num_items, device=losses.device).clamp(min=1)
    return {"loss": total, "sample_losses": by_record, "sample_targets": counts.long()}


AutoModelForCausalLM.register(SennaConfig, SennaLlavaLlamaForCausalLM)

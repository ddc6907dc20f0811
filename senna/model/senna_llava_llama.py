"""The driving vision-language model: CLIP tower, projector, driving vision adapter, splice, Llama.

B samples or packed rows, V views a sample, N images in the batch, T prompt tokens, L spliced length, K tokens a view, D width,
R records, n targets.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModelForCausalLM, LlamaForCausalLM, LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from senna.model.adapter import AdapterLinear, DrivingVisionAdapter, Projector, ProjectorLinear
from senna.model.config import IGNORE_INDEX, IMAGE_TOKEN_INDEX, SennaConfig
from senna.model.layout import Layout
from senna.model.packed_attention import PackedAttention, packed_kind
from senna.model.source import read_config
from senna.model.splice import SplicePlan, plan_splice, splice_embeddings
from senna.model.vision_tower import VisionTower

Images = torch.Tensor | Sequence[torch.Tensor] | None
"""(B, V, 3, H, W), or B tensors (V_i, 3, H, W) where V differs (0 for a text-only sample), or None."""


def flatten_images(images: Images, batch: int) -> tuple[torch.Tensor | None, list[int]]:
    """All images of the batch as one (N, 3, H, W) tensor, None where there are none, and how many each sample has."""
    if images is None:
        return None, [0] * batch
    if isinstance(images, torch.Tensor) and images.dim() != 5:
        raise ValueError(f"images must be (B, V, 3, H, W), or a list of (V, 3, H, W); got {tuple(images.shape)}")
    if len(images) != batch:
        raise ValueError(f"images of {len(images)} samples for a batch of {batch}")
    counts = [len(views) for views in images]
    if isinstance(images, torch.Tensor):
        return (images.flatten(0, 1) if sum(counts) else None), counts  # no copy
    return (torch.cat([views for views in images if len(views)]) if sum(counts) else None), counts


@dataclass
class SennaOutput(CausalLMOutputWithPast):
    """A forward's result; beside the usual, for logs, each sample's share of the loss (no gradient)."""

    sample_losses: torch.Tensor | None = None  # (R,) fp32, cross-entropy summed over a record's targets
    sample_targets: torch.Tensor | None = None  # (R,) how many those are


@dataclass(frozen=True)
class Targets:
    """What is to be predicted in a batch, and from where."""

    places: torch.Tensor  # (n,) of the hidden states that predict them, counted over B * L
    answers: torch.Tensor  # (n,) token ids
    records: torch.Tensor  # (n,) which of the R records each is of
    count: int  # R

    @classmethod
    def of_rows(cls, labels: torch.Tensor) -> "Targets":
        """Of (B, L) labels where each row is a record."""
        row, column = (labels[:, 1:] != IGNORE_INDEX).nonzero(as_tuple=True)
        return cls(row * labels.shape[1] + column, labels[row, column + 1], row, len(labels))

    @classmethod
    def of_packed(cls, labels: torch.Tensor, places: torch.Tensor, records: torch.Tensor, count: int) -> "Targets":
        """Of packed (B, L) labels, whose places are known: nothing here waits for the device."""
        return cls(places, labels.flatten()[places + 1], records, count)


class SennaLlavaLlamaModel(LlamaModel):
    """Llama with a vision tower, a projector and the driving vision adapter beside its layers."""

    config_class = SennaConfig

    def __init__(self, config: SennaConfig):
        config.check_tower()
        super().__init__(config)
        self.vision_tower = VisionTower(config)
        self.mm_projector = Projector(config.mm_hidden_size, config.hidden_size)
        self.img_adapter = DrivingVisionAdapter(config.patch_tokens, config.mm_adapter_tokens)
        self.post_init()

    def _init_weights(self, module: nn.Module):
        if isinstance(module, ProjectorLinear | AdapterLinear):
            module.reset_parameters()
        else:
            super()._init_weights(module)

    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised pixels -> (N, K, D), all images in one call."""
        features = self.vision_tower(images)  # (N, P, C)
        return self.img_adapter(self.mm_projector(features.to(self.mm_projector[0].weight.dtype)))


class SennaLlavaLlamaForCausalLM(LlamaForCausalLM):
    """Senna. Parameter names and shapes are those of the published checkpoints."""

    config_class = SennaConfig
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq", r"embeddings\.position_ids"]  # noqa: RUF012

    def __init__(self, config: SennaConfig):
        LlamaPreTrainedModel.__init__(self, config)  # LlamaForCausalLM's own would build the Llama a second time
        self.model = SennaLlavaLlamaModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path, *args, config=None, **kwargs):
        """As in transformers; published folders, whose tower is only named, get its geometry too."""
        if config is None:
            config = read_config(str(pretrained_model_name_or_path))
        return super().from_pretrained(pretrained_model_name_or_path, *args, config=config, **kwargs)

    def plan(self, input_ids, attention_mask, labels, images_per_sample) -> SplicePlan:
        """The layout of a training or scoring batch: this model's padding side, cut to its maximum length."""
        return plan_splice(
            input_ids,
            attention_mask,
            labels,
            images_per_sample,
            tokens_per_image=self.config.mm_adapter_tokens,
            max_length=self.config.tokenizer_model_max_length,
            padding_side=self.config.tokenizer_padding_side,
        )

    def embed(self, input_ids: torch.Tensor, images: torch.Tensor | None, plan: SplicePlan) -> torch.Tensor:
        """(B, T) ids and (N, 3, H, W) images -> (B, L, D) spliced embeddings."""
        text = self.model.embed_tokens(input_ids.where(input_ids != IMAGE_TOKEN_INDEX, 0))
        if images is not None:
            return splice_embeddings(plan, text, self.model.encode_images(images))
        spliced = splice_embeddings(plan, text, text.new_zeros(0, self.config.mm_adapter_tokens, text.shape[-1]))
        adapters = [*self.model.mm_projector.parameters(), *self.model.img_adapter.parameters()]
        if not self.training or not any(p.requires_grad or hasattr(p, "ds_id") for p in adapters):
            return spliced
        # An empty picture that counts for nothing: without it a batch of text would have no gradient for projector and
        # adapter, and other processes, which gather (ZeRO-3) or reduce these weights at this moment, would wait for ever.
        side = self.config.vision_config.image_size
        return spliced + 0.0 * self.model.encode_images(text.new_zeros(1, 3, side, side)).sum()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values=None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        images: Images = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        loss_weight: str = "token",
        layout: Layout | None = None,
        **kwargs,
    ) -> SennaOutput:
        """Spliced forward. Prompts (``input_ids`` with no cache before them) are spliced; embeddings are taken as they are.

        Args: ``input_ids`` (B, T), -200 for an image; ``labels`` (B, T), -100 for no target; ``images`` see `Images`;
        ``num_items_in_batch`` what the summed loss is divided by (default: this batch's items); ``loss_weight`` what these
        items are, all of equal weight: "token" targets, "record" records; ``layout`` makes it a packed batch, see
        `forward_packed`.
        Returns the loss (a mean in fp32; 0 where the batch has no target) and logits (B, L, vocabulary). With labels in
        training mode the head runs at the targets only and ``logits`` is None.
        """
        if layout is not None:
            return self.forward_packed(
                layout, input_ids, position_ids, labels, images, num_items_in_batch, loss_weight, **kwargs
            )
        if input_ids is not None and inputs_embeds is None and past_key_values is None:
            pixels, counts = flatten_images(images, len(input_ids))
            plan = self.plan(input_ids, attention_mask, labels, counts)
            inputs_embeds, labels, position_ids = self.embed(input_ids, pixels, plan), plan.labels, plan.position_ids
            # Behind right padding nothing real is attended to by causality alone, and no mask is the fast path.
            needs_mask = use_cache or self.config.tokenizer_padding_side == "left"
            attention_mask, input_ids = plan.attention_mask if needs_mask else None, None
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden = outputs.last_hidden_state  # (B, L, D)
        of_loss = {}
        if labels is not None:
            targets = Targets.of_rows(labels)
            of_loss = weighed(self.target_losses(hidden, targets)[0], targets, num_items_in_batch, loss_weight)
        logits = None
        if labels is None or not self.training:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = self.lm_head(hidden[:, kept])
        return SennaOutput(
            **of_loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def forward_packed(
        self,
        layout: Layout,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        labels: torch.Tensor,
        images: torch.Tensor | None,
        num_items_in_batch: torch.Tensor | int | None = None,
        loss_weight: str = "token",
        *,
        source: torch.Tensor,
        target_places: torch.Tensor,
        target_records: torch.Tensor,
        records: int,
    ) -> SennaOutput:
        """Rows in which trees stand: a prefix, and branches that go on from it and do not see each other.

        The arguments are a batch of `senna.data.PackCollator`, which says what they are. Loss and gradient are those of the
        records one by one. The head runs at the targets only; ``logits`` are theirs, (n, vocabulary), and None in training.
        """
        embeds = self.embed(input_ids, images, SplicePlan(source, None, labels))
        packed = PackedAttention(layout, packed_kind(self.config), *embeds.shape[:2], embeds.dtype, embeds.device)
        hidden = self.model(
            inputs_embeds=embeds,
            attention_mask=packed.attention_mask,
            position_ids=position_ids,
            packed=packed,
            use_cache=False,
        ).last_hidden_state  # (B, L, D)
        targets = Targets.of_packed(labels, target_places, target_records, records)
        losses, logits = self.target_losses(hidden, targets)
        return SennaOutput(
            **weighed(losses, targets, num_items_in_batch, loss_weight), logits=None if self.training else logits
        )

    def target_losses(self, hidden: torch.Tensor, targets: Targets) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, L, D) hidden states -> cross-entropy (n,) in fp32 and logits (n, vocabulary) at the targets."""
        logits = self.lm_head(hidden.flatten(0, 1).index_select(0, targets.places))
        return F.cross_entropy(logits.float(), targets.answers, reduction="none"), logits

    @torch.no_grad()
    def generate(self, inputs=None, images: Images = None, attention_mask=None, **kwargs):
        """Continue prompts (B, T); returns only the new tokens (B, new). Prompts may be padded on either side."""
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            return super().generate(attention_mask=attention_mask, **kwargs)
        pixels, counts = flatten_images(images, len(input_ids))
        # Never cut: the end of a prompt is its question. Padding stands left, so that new tokens follow real ones.
        plan = plan_splice(input_ids, attention_mask, None, counts, self.config.mm_adapter_tokens, None, "left")
        embeds = self.embed(input_ids, pixels, plan)
        return super().generate(inputs_embeds=embeds, attention_mask=plan.attention_mask.long(), **kwargs)


def weighed(losses: torch.Tensor, targets: Targets, num_items: torch.Tensor | int | None, weight: str) -> dict:
    """The fields of `SennaOutput` that (n,) losses make: their sum, each target or each record of equal weight, over
    ``num_items`` (default: the batch's targets or its records that have some)."""
    counts = losses.new_zeros(targets.count).index_add(0, targets.records, torch.ones_like(losses))  # (R,)
    by_record = losses.new_zeros(targets.count).index_add(0, targets.records, losses.detach())
    if weight == "record":
        losses = losses / counts[targets.records]
    if num_items is None:
        num_items = (counts > 0).sum() if weight == "record" else len(losses)
    total = losses.sum() / torch.as_tensor(num_items, device=losses.device).clamp(min=1)
    return {"loss": total, "sample_losses": by_record, "sample_targets": counts.long()}


AutoModelForCausalLM.register(SennaConfig, SennaLlavaLlamaForCausalLM)

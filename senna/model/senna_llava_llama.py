"""The driving vision-language model: CLIP tower, projector, driving vision adapter, splice, Llama.

B samples, V views a sample, N images in the batch, T prompt tokens, L spliced length, K tokens a view, D width.
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
from senna.model.config_files import read_config
from senna.model.splice import SplicePlan, plan_splice, splice_embeddings
from senna.model.vision_tower import VisionTower

Images = torch.Tensor | Sequence[torch.Tensor] | None
"""(B, V, 3, H, W), or B tensors (V_i, 3, H, W) where V differs (0 for a text-only sample), or None."""


def flatten_images(images: Images, batch: int) -> tuple[torch.Tensor | None, list[int]]:
    """All images of the batch as one (N, 3, H, W) tensor, None where there are none, and how many each sample has."""
    if images is None:
        return None, [0] * batch
    if isinstance(images, torch.Tensor):
        if images.dim() != 5:
            raise ValueError(f"images must be (B, V, 3, H, W), or a list of (V, 3, H, W); got {tuple(images.shape)}")
        images = list(images)
    if len(images) != batch:
        raise ValueError(f"images of {len(images)} samples for a batch of {batch}")
    counts = [len(views) for views in images]
    return (torch.cat([views for views in images if len(views)]) if sum(counts) else None), counts


@dataclass
class SennaOutput(CausalLMOutputWithPast):
    """A forward's result; beside the usual, for logs, each sample's share of the loss (no gradient)."""

    sample_losses: torch.Tensor | None = None  # (B,) fp32, cross-entropy summed over the sample's targets
    sample_targets: torch.Tensor | None = None  # (B,) how many those are


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
        **kwargs,
    ) -> SennaOutput:
        """Spliced forward. Prompts (``input_ids`` with no cache before them) are spliced; embeddings are taken as they are.

        Args: ``input_ids`` (B, T), -200 for an image; ``labels`` (B, T), -100 for no target; ``images`` see `Images`;
        ``num_items_in_batch`` what the summed loss is divided by (default: this batch's targets).
        Returns the loss (mean over targets in fp32; 0 where the batch has none) and logits (B, L, vocabulary). With labels
        in training mode the head runs at the targets only and ``logits`` is None.
        """
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
        of_loss = {} if labels is None else self.target_loss(hidden, labels, num_items_in_batch)
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

    def target_loss(self, hidden: torch.Tensor, labels: torch.Tensor, num_items: torch.Tensor | int | None) -> dict:
        """Cross-entropy of (B, L, D) hidden states at the targets of (B, L) labels: the fields of `SennaOutput`.

        ``loss`` is the sum over ``num_items`` (default: the number of targets).
        """
        is_target = labels[:, 1:] != IGNORE_INDEX
        logits = self.lm_head(hidden[:, :-1][is_target]).float()  # (targets, vocabulary)
        losses = F.cross_entropy(logits, labels[:, 1:][is_target], reduction="none")
        count = len(logits) if num_items is None else num_items
        loss = losses.sum() / torch.as_tensor(count, device=losses.device).clamp(min=1)
        row_of_target = is_target.nonzero()[:, 0]
        by_row = losses.new_zeros(len(labels)).index_add(0, row_of_target, losses.detach())
        return {"loss": loss, "sample_losses": by_row, "sample_targets": is_target.sum(1)}

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


AutoModelForCausalLM.register(SennaConfig, SennaLlavaLlamaForCausalLM)

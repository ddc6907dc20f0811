"""The fields of `senna train` that its help and `--print` show, under headings."""

from senna.train.fields import TrainArguments

OWN_FIELDS = list(TrainArguments.__annotations__)
"""The fields that `senna train --help` shows: Senna's own, and the fields of transformers that most runs set."""

HEADINGS = {
    "model_name_or_path": "Model and data",
    "version": "Prompts, images and packing",
    "tune_mm_mlp_adapter": "Trained parts",
    "lora_enable": "LoRA and QLoRA",
    "global_batch_size": "Batch size, steps and learning rate",
    "eval_data_path": "Validation",
    "bf16": "Hardware",
    "output_dir": "Output and logging",
    "mm_projector_type": "Fixed values, accepted so that the published scripts run",
}
"""Headings of `OWN_FIELDS` by the first field below each; the same as the comments in `TrainArguments`."""


def grouped_fields() -> dict[str, list[str]]:
    """Return `OWN_FIELDS` by heading."""
    groups: dict[str, list[str]] = {}
    group: list[str] = []
    for name in OWN_FIELDS:
        if name in HEADINGS:
            group = groups.setdefault(HEADINGS[name], [])
        group.append(name)
    return groups

"""The generation settings of a checkpoint, reduced to what transformers can save.

Vicuna's ``generation_config.json`` sets temperature and top_p without do_sample. transformers 5.17 to 5.20 load it and refuse
to save it. Senna decodes greedily and passes its own settings, so sampling settings have no use here.
"""

import json
from typing import Any

from transformers import GenerationConfig, PretrainedConfig

from senna.model.source import find_file

GENERATION_CONFIG = "generation_config.json"

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def read_generation_config(path: str, config: PretrainedConfig) -> GenerationConfig | None:
    """Return the savable generation settings of a checkpoint; those of its ``config`` if its file cannot be read.

    Args:
        path: a folder or hub name.

    Returns:
        None if the checkpoint has no such file.
    """
    file = find_file(path, GENERATION_CONFIG)
    if file is None:
        return None
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return savable(dict(values), config)
    except (OSError, ValueError, TypeError, RecursionError):
        return savable({}, config)


def savable(values: dict[str, Any], config: PretrainedConfig) -> GenerationConfig:
    """Return generation settings that every supported transformers saves.

    Settings that have no effect, because another setting switches them off, are left out. If transformers still refuses the
    rest, only the special tokens remain.

    Args:
        values: the content of a ``generation_config.json``.
        config: gives the special tokens that ``values`` lacks.
    """
    kept = {name: value for name, value in values.items() if name != "transformers_version"}
    if kept.get("do_sample") is not True:
        kept = {name: value for name, value in kept.items() if name not in _SAMPLING}
    kept = {name: value for name, value in kept.items() if name not in _TOKENS or _is_token(value)}
    tokens = {name: kept[name] for name in _TOKENS if name in kept}
    own = {name: value for name in _TOKENS if _is_token(value := getattr(config, name, None))}
    for candidate in (kept, own | tokens, own):
        try:
            generation = GenerationConfig.from_dict(dict(candidate))
            generation.validate(strict=True)
            generation.to_json_string()
            return generation
        except Exception:  # foreign values of any type go through transformers' code here
            continue
    return GenerationConfig()


def _is_token(value: Any) -> bool:
    """Return whether a value is a token id, or a list of them."""
    ids = value if isinstance(value, list) else [value]
    return bool(ids) and all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in ids)

"""The entry points by which vLLM finds Senna. vLLM calls them in every process, and more than once."""

from typing import Any

ARCHITECTURE = "SennaLlavaLlamaForCausalLM"


def register() -> None:
    """Register the model, its tokenizer and its renderer (``vllm.general_plugins``)."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig
    from vllm.renderers.registry import RENDERER_REGISTRY
    from vllm.tokenizers.registry import TokenizerRegistry

    import senna.model.config  # noqa: F401  # registers the configuration with transformers

    if ARCHITECTURE in MODELS_CONFIG_MAP:
        return

    class SennaDefaults(VerifyAndUpdateConfig):
        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            if model_config.tokenizer_mode in ("auto", "hf"):
                model_config.tokenizer_mode = "senna"

    MODELS_CONFIG_MAP[ARCHITECTURE] = SennaDefaults
    ModelRegistry.register_model(ARCHITECTURE, "senna.serve.model:SennaForVLLM")
    TokenizerRegistry.register("senna", "senna.serve.tokenizer", "SennaTokenizer")
    RENDERER_REGISTRY.register("senna", "senna.serve.renderer", "SennaRenderer")

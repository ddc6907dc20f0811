"""Checks of the model and its vision tower: complete, undamaged, and consistent with the configuration. Loads no weights."""

import copy
from collections.abc import Iterator
from pathlib import Path

import torch

from senna.data.images import PixelRules
from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, failed, size
from senna.doctor.hub import check_download, is_hub_name, local_name, locate
from senna.doctor.weights import Shape, Weights, read_weights
from senna.model.config import SennaConfig
from senna.model.lora import LORA_WEIGHTS, NON_LORA_WEIGHTS
from senna.model.parts import CLIP_PREFIX, DRIVING_ADAPTER, PARTS, PROJECTOR, VISION_TOWER
from senna.model.source import ADAPTER_CONFIG, DEFAULT_TOWER, ModelSource

STAGE1 = "train stage 1 first: sh train_tools/pretrain_senna_llava.sh"


def config(context: RunContext) -> Iterator[Finding]:
    """Read the configuration into the context, or check the download of a model that is only on the hub.

    Raises:
        UsageError: the model or its configuration cannot be used.
    """
    args = context.args
    if not args.model_name_or_path:
        return
    source = ModelSource.resolve(args.model_name_or_path, args.model_base, args.vision_tower, locate=local_name)
    context.source = source
    for name in source.lineage:
        if locate(name) is None and is_hub_name(name):
            yield _check_download(context, "model", name)
    tower = source.given_tower
    # The configuration of the default tower is part of the code, so that it is not needed from the hub.
    if tower and tower != DEFAULT_TOWER and locate(tower) is None and is_hub_name(tower):
        yield _check_download(context, "tower", tower)
    if failed(context.hub_findings.values()):
        return
    config = copy.deepcopy(source.config)
    for name in ("mm_adapter_tokens", "mm_vision_select_layer"):
        if getattr(args, name) is not None:
            setattr(config, name, getattr(args, name))
    context.config = config


def _check_download(context: RunContext, topic: str, name: str) -> Finding:
    context.hub_findings[name] = check_download(topic, name)
    return context.hub_findings[name]


def weights(context: RunContext) -> Iterator[Finding]:
    """Check the weight files of the model and its bases: undamaged, and complete for the configuration."""
    if context.config is None or context.source is None:
        return
    for name in context.source.lineage:
        folder = locate(name)
        if folder is None:
            continue
        if (folder / ADAPTER_CONFIG).is_file():
            yield from _lora_folder(context, folder)
        else:
            yield from _model_folder(context, folder, context.config)
    if not context.is_preflight:  # a run reports untrained parts itself after it has loaded the weights
        yield from _untrained_parts(context)


def expected_weights(config: SennaConfig) -> dict[str, Shape]:
    """Return the name and shape of every weight of a model with this configuration, taken from the model's code."""
    from senna.model import SennaLlavaLlamaForCausalLM

    with torch.device("meta"):
        model = SennaLlavaLlamaForCausalLM(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def _model_folder(context: RunContext, folder: Path, config: SennaConfig) -> Iterator[Finding]:
    expected, found = expected_weights(config), read_weights(folder)
    context.add_weights(found)
    if found.problems:
        yield from _problems("model", found)
        return
    if found.complete:
        # A part may be absent as a unit: projector and adapter of a bare Llama or of LLaVA are created for training.
        absent = tuple(prefix for part, prefix in PARTS.items() if part == VISION_TOWER or not context.may_have(part))
        missing = [name for name in expected if name not in found.shapes and not name.startswith(absent)]
        if missing:
            message = f"{folder}: {len(missing)} weights of its config.json are in no file, the first is {missing[0]}"
            yield Finding(FAIL, "model", message, "copy both config.json and the weights again from the same source")
            return
    wrong = [name for name, shape in found.shapes.items() if name in expected and shape not in (None, expected[name])]
    if wrong:
        name = wrong[0]
        message = f"{folder}: {name} has shape {found.shapes[name]}, and config.json requires {expected[name]}"
        remedy = "copy config.json and the weights from the same source"
        if name.startswith(PARTS[DRIVING_ADAPTER]):
            remedy = "leave out --mm_adapter_tokens"
        yield Finding(FAIL, "model", f"{message} ({len(wrong)} weights with a wrong shape)", remedy)
        return
    files = f"{len(found.files)} file{'s' * (len(found.files) > 1)}"
    layers = f"{config.num_hidden_layers} layers of width {config.hidden_size}"
    yield Finding(OK, "model", f"{folder}: {layers}, complete ({size(found.bytes)} in {files})")


def _lora_folder(context: RunContext, folder: Path) -> Iterator[Finding]:
    lora = read_weights(folder, (LORA_WEIGHTS, LORA_WEIGHTS))
    others = read_weights(folder, (NON_LORA_WEIGHTS, NON_LORA_WEIGHTS))
    context.add_weights(lora)
    if others.files:
        context.add_weights(others)
        lora.problems += others.problems
    yield from _problems("LoRA", lora)
    if not lora.problems:
        yield Finding(OK, "LoRA", f"{folder}: complete ({size(lora.bytes + others.bytes)})")


def _problems(topic: str, found: Weights) -> Iterator[Finding]:
    for problem in found.problems:
        yield Finding(FAIL, topic, problem.message, problem.remedy)


def _untrained_parts(context: RunContext) -> Iterator[Finding]:
    """Warn if stages 2 and 3 would start with a new projector or adapter."""
    new = [part for part in (PROJECTOR, DRIVING_ADAPTER) if not context.may_have(part)]
    is_on_hub = context.source is not None and context.hub_findings.keys() & set(context.source.lineage)
    if context.weight_names != set() and new and not context.args.tune_mm_mlp_adapter and not is_on_hub:
        message = (
            f"{context.args.model_name_or_path} holds no {' and no '.join(new)}; training starts from random values"
        )
        yield Finding(WARN, "model", message, STAGE1)


def tower(context: RunContext) -> Iterator[Finding]:
    """Check the vision tower's files, and that the image processor makes images of the tower's size."""
    config, source = context.config, context.source
    if config is None or source is None:
        return
    vision = config.tower_config
    if context.may_have(VISION_TOWER) and source.given_tower is None:
        if context.weight_names is None:  # whether a pickle holds the tower is only known when it is opened
            return
        message = f"part of the model: {vision.num_hidden_layers} layers of width {vision.hidden_size}"
        yield Finding(OK, "tower", message)
    else:
        folder = locate(source.vision_tower)
        if folder is None:
            if source.vision_tower not in context.hub_findings:
                yield _check_download(context, "tower", source.vision_tower)
            return
        yield from _tower_folder(folder, config)
    yield from _image_size(source, config)


def _tower_folder(folder: Path, config: SennaConfig) -> Iterator[Finding]:
    found = read_weights(folder)
    yield from _problems("tower", found)
    if found.problems:
        return
    if found.complete:
        shapes = {name.rpartition("vision_model.")[2]: shape for name, shape in found.shapes.items()}
        expected = {
            name.removeprefix(CLIP_PREFIX): shape
            for name, shape in expected_weights(config).items()
            if name.startswith(CLIP_PREFIX)
        }
        wrong = [name for name, shape in expected.items() if name not in shapes or shapes[name] not in (None, shape)]
        if wrong:
            message = f"{folder}: {len(wrong)} weights are missing or have a wrong shape, the first is {wrong[0]}"
            remedy = "set --vision_tower (VISION_TOWER) to a CLIP model with its own config.json"
            yield Finding(FAIL, "tower", message, remedy)
            return
    vision = config.tower_config
    layers = f"{vision.num_hidden_layers} layers of width {vision.hidden_size}"
    yield Finding(OK, "tower", f"{folder}: {layers}, complete ({size(found.bytes)})")


def _image_size(source: ModelSource, config: SennaConfig) -> Iterator[Finding]:
    """Compare the size of the processed images with that of the tower's input."""
    side = config.image_side
    rules = PixelRules.from_processor(source.load_image_processor())
    height, width = rules.crop or rules.resized(1, 1)[::-1]
    if (height, width) != (side, side):
        message = f"preprocessor_config.json makes images of {width} x {height}, and the tower takes {side} x {side}"
        name = config.mm_vision_tower or DEFAULT_TOWER
        yield Finding(FAIL, "tower", message, f"copy the preprocessor_config.json of the tower, {name}")

"""The model, its tower and its tokenizer: there, whole, and fit for each other. No weight is loaded."""

from collections.abc import Iterator
from pathlib import Path

import torch

from senna.doctor.context import RunContext
from senna.doctor.findings import FAIL, OK, WARN, Finding, failed, size
from senna.doctor.hub import here, is_hub_name, locate, not_here
from senna.doctor.weights import Shape, Weights, read_weights
from senna.errors import UsageError
from senna.model.config import SennaConfig
from senna.model.lora import LORA_WEIGHTS, OTHER_WEIGHTS
from senna.model.parts import PARTS
from senna.model.source import ADAPTER_CONFIG, DEFAULT_TOWER, base_of, load_image_processor, read_config, resolve_tower

STAGE1 = "train stage 1 first: sh train_tools/pretrain_senna_llava.sh"
TOWER_WEIGHTS = PARTS["vision_tower"] + "vision_tower.vision_model."


def lineage(path: str, base: str | None) -> list[str]:
    """As `senna.model.lora.lineage`, by folders of this disk: it ends at a hub model that is not here."""
    found = [here(path)]
    while (Path(found[-1]) / ADAPTER_CONFIG).is_file():
        found.append(here(base_of(found[-1], base)))
        base = None
        if found[-1] in found[:-1]:
            raise UsageError(f"LoRA folder {found[-1]}: is its own base, by way of {found[-2]}")
    return found


def config(case: RunContext) -> Iterator[Finding]:
    """Reads the configuration into the case. Raises UsageError, or says what the hub says, where that cannot be."""
    args = case.args
    if not args.model_name_or_path:
        return
    case.lineage = lineage(args.model_name_or_path, here(args.model_base) if args.model_base else None)
    for name in case.lineage:
        if locate(name) is None and is_hub_name(name):
            yield _ask(case, "model", name)
    tower = here(args.vision_tower) if args.vision_tower else None
    # The geometry of OpenAI's own is known by heart.
    if tower and tower != DEFAULT_TOWER and locate(tower) is None and is_hub_name(tower):
        yield _ask(case, "tower", tower)
    if failed(case.hub.values()):
        return
    found = read_config(case.lineage[0], tower, case.lineage[1] if len(case.lineage) > 1 else None)
    for name in ("mm_adapter_tokens", "mm_vision_select_layer"):
        if getattr(args, name) is not None:
            setattr(found, name, getattr(args, name))
    case.config = found


def _ask(case: RunContext, topic: str, name: str) -> Finding:
    case.hub[name] = not_here(topic, name)
    return case.hub[name]


def weights(case: RunContext) -> Iterator[Finding]:
    """Every file of the model and of its bases; that they hold what the configuration needs."""
    if case.config is None:
        return
    expected = expected_weights(case.config)
    for name in case.lineage:
        folder = locate(name)
        if folder is None:
            continue
        if (folder / ADAPTER_CONFIG).is_file():
            yield from _lora_folder(case, folder)
        else:
            yield from _whole_model(case, folder, expected)
    if not case.starts:  # a run says it itself, of the weights that it has loaded
        yield from _untrained_parts(case)


def expected_weights(config: SennaConfig) -> dict[str, Shape]:
    """Name and shape of every weight that a model of this configuration has, from the model's own code."""
    from senna.model import SennaLlavaLlamaForCausalLM

    with torch.device("meta"):
        model = SennaLlavaLlamaForCausalLM(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name not in tied}


def _whole_model(case: RunContext, folder: Path, expected: dict[str, Shape]) -> Iterator[Finding]:
    held = read_weights(folder)
    case.holds(held)
    if held.problems:
        yield from _problems("model", held)
        return
    if held.complete:
        # Of a part, all weights or none: those of a bare Llama or of LLaVA are new.
        absent = tuple(p for part, p in PARTS.items() if part == "vision_tower" or not case.has(part))
        missing = [name for name in expected if name not in held.shapes and not name.startswith(absent)]
        if missing:
            first = f"the first {missing[0]}" if len(missing) > 1 else missing[0]
            yield Finding(
                FAIL,
                "model",
                f"{folder}: its config.json needs {len(missing)} weights that no file holds, {first}",
                "config.json and weights are of two models: copy both from the same place again",
            )
            return
    wrong = [name for name, shape in held.shapes.items() if name in expected and shape not in (None, expected[name])]
    if wrong:
        name = wrong[0]
        yield Finding(
            FAIL,
            "model",
            f"{folder}: {name} is {held.shapes[name]}, its config.json says {expected[name]} ({len(wrong)} such)",
            "leave --mm_adapter_tokens out"
            if "img_adapter" in name
            else "copy config.json and weights from the same place",
        )
        return
    config = case.config
    yield Finding(
        OK,
        "model",
        f"{folder}: {config.num_hidden_layers} layers of {config.hidden_size}, {size(held.bytes)} in "
        f"{len(held.files)} file{'s' * (len(held.files) > 1)}, whole",
    )


def _lora_folder(case: RunContext, folder: Path) -> Iterator[Finding]:
    lora = read_weights(folder, (LORA_WEIGHTS, LORA_WEIGHTS))
    others = read_weights(folder, (OTHER_WEIGHTS, OTHER_WEIGHTS))
    case.holds(lora)
    if others.files:
        case.holds(others)
        lora.problems += others.problems
    yield from _problems("LoRA", lora)
    if not lora.problems:
        yield Finding(OK, "LoRA", f"{folder}: {size(lora.bytes + others.bytes)}, whole")


def _problems(topic: str, held: Weights) -> Iterator[Finding]:
    for problem in held.problems:
        yield Finding(FAIL, topic, problem.says, problem.remedy)


def _untrained_parts(case: RunContext) -> Iterator[Finding]:
    new = [part for part in ("mm_projector", "img_adapter") if not case.has(part)]
    if case.names != set() and new and not case.args.tune_mm_mlp_adapter and not case.hub.keys() & set(case.lineage):
        says = f"{case.args.model_name_or_path} holds no {' and no '.join(new)}: it would start untrained"
        yield Finding(WARN, "model", says, STAGE1)


def tower(case: RunContext) -> Iterator[Finding]:
    """The vision tower's files, and that pictures are made as large as it takes them."""
    if case.config is None:
        return
    args, vision = case.args, case.config.vision_config
    if case.has("vision_tower") and args.vision_tower is None:
        if case.names is None:  # a pickle: opening it will tell
            return
        yield Finding(OK, "tower", f"in the model: {vision.num_hidden_layers} layers of {vision.hidden_size}")
    else:
        name = resolve_tower(case.config.mm_vision_tower, case.lineage[0], args.model_base)
        folder = locate(name)
        if folder is None:
            if name not in case.hub:
                yield _ask(case, "tower", name)
            return
        yield from _tower_folder(case, folder)
    yield from _pictures(case)


def _tower_folder(case: RunContext, folder: Path) -> Iterator[Finding]:
    held = read_weights(folder)
    yield from _problems("tower", held)
    if held.problems:
        return
    if held.complete:
        names = {name.rpartition("vision_model.")[2]: shape for name, shape in held.shapes.items()}
        needed = {
            name.removeprefix(TOWER_WEIGHTS): shape
            for name, shape in expected_weights(case.config).items()
            if name.startswith(TOWER_WEIGHTS)
        }
        unfit = [name for name, shape in needed.items() if name not in names or names[name] not in (None, shape)]
        if unfit:
            yield Finding(
                FAIL,
                "tower",
                f"{folder}: {len(unfit)} weights are missing or of another shape, the first {unfit[0]}",
                "--vision_tower (VISION_TOWER) takes a CLIP model with its own config.json",
            )
            return
    vision = case.config.vision_config
    says = f"{folder}: {vision.num_hidden_layers} layers of {vision.hidden_size}, {size(held.bytes)}, whole"
    yield Finding(OK, "tower", says)


def _pictures(case: RunContext) -> Iterator[Finding]:
    from senna.data.images import PixelRules

    side = case.config.vision_config.image_size
    source = here(case.args.vision_tower) if case.args.vision_tower else case.lineage[0]
    base = case.lineage[1] if not case.args.vision_tower and len(case.lineage) > 1 else None
    rules = PixelRules.from_processor(load_image_processor(source, case.config, base))
    made = rules.crop or rules.resized(1, 1)[::-1]
    if made != (side, side):
        yield Finding(
            FAIL,
            "tower",
            f"preprocessor_config.json makes pictures of {made[1]} x {made[0]}, the tower takes {side} x {side}",
            f"copy the preprocessor_config.json of the tower, {case.config.mm_vision_tower or DEFAULT_TOWER}",
        )

"""`senna evaluate`: records to predictions, predictions to metrics, metrics to a report."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.errors import SennaError, UsageError
from senna.files import stamp, write_json
from senna.flags import flag, parse_flags

if TYPE_CHECKING:
    from senna.evaluate.predictions import Prediction

MODES, COMPATS = ("score", "generate"), (None, "original")
BLACKOUT = "predictions_blackout"


@dataclass
class EvaluateArguments:
    """Flags of `senna evaluate`."""

    model: str = flag("folder or hub name of a model, or a LoRA folder", "")
    data: str = flag("the records to evaluate on: .jsonl or .json", "")
    out: str = flag("the folder to make: predictions.jsonl, metrics.json, report.html and plots", "")
    image_folder: str | None = flag("where image paths start (default: beside the data)", None)
    mode: str = flag(
        "of plans: score, the probability of each of the twenty meta-actions, in one forward; or generate, greedy text "
        "that must be a meta-action",
        "score",
    )
    kinds: str = flag("which questions: plan, or several as plan,traffic_light,motion; all. Text is generated", "plan")
    blackout: bool = flag("also with every image black: what is then left the model does not see", False)
    train_data: str | None = flag("the training records, on which the baselines are fitted", None)
    compat: str | None = flag("original: also the published script's counts, for comparing with its figures", None)
    limit: int | None = flag("the first records only", None)
    batch_size: int = flag("records at once", 8)
    max_new_tokens: int = flag("the longest generated answer", 256)
    skip_bad_samples: int = flag("so many records that cannot be used are left out and counted", 0)
    version: str = flag("the prompt format", "v1")
    aspect_ratio: str = flag("how images become square: pad, or square (CLIP's crop)", "pad")
    image_decode: str = flag(
        "exact: the published pixels; fast: about twice as fast, one grey level off here and there", "exact"
    )
    base: str | None = flag("the base of a LoRA folder, where it has moved", None)
    quantization: str | None = flag("nf4 or int8: the LLM in 4 or 8 bits", None)
    dtype: str = flag("auto is the checkpoint's; float32, bfloat16, float16", "auto")
    device: str = flag("auto is the GPU where there is one; cpu, cuda, cuda:1", "auto")
    pack_attention: str = flag(
        "how the twenty answers attend: auto (split on a CPU, flex on CUDA), split, dense, flex", "auto"
    )
    workers: int = flag("processes that read images", 2)
    overwrite: bool = flag("begin anew where OUT holds another evaluation", False)
    compare: list[str] | None = flag(
        "compare the evaluations in these folders (two or more) instead; --out is the page's", None
    )


def main(argv: list[str]) -> int:
    """Entry point of `senna evaluate`. Returns the exit code."""
    args = parse_flags(
        EvaluateArguments,
        argv,
        "senna evaluate",
        "How well a model plans: OUT/metrics.json and OUT/report.html, with baselines and intervals beside every figure. A run "
        "that was stopped goes on where it stood when the same command is given again, with the same result. Many GPUs: "
        "torchrun --nproc_per_node N -m senna evaluate ... Two runs side by side: senna evaluate --compare A B.",
    )
    if args.compare:
        return _compare(args)
    _check(args)
    return run(args)


def _check(args: EvaluateArguments) -> None:
    for name in ("model", "data", "out"):
        if not getattr(args, name):
            raise UsageError(f"--{name} is missing; see senna evaluate --help")
    for name, known in (("mode", MODES), ("compat", COMPATS)):
        if getattr(args, name) not in known:
            raise UsageError(f"--{name} {getattr(args, name)}: one of {', '.join(filter(None, known))}")
    for name in ("limit", "batch_size", "max_new_tokens"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value}: at least 1")


def _compare(args: EvaluateArguments) -> int:
    from senna.evaluate.report.compare import write_comparison

    folders = [Path(folder) for folder in args.compare or []]
    page = write_comparison(folders, Path(args.out) if args.out else folders[0])
    print(f"comparison  {page}")
    return 0


def run(args: EvaluateArguments) -> int:
    """Evaluate as told. Raises SennaError."""
    from senna.data.mixture import Mixture
    from senna.evaluate.predictions import Store, claim
    from senna.record_file import open_records

    records = open_records(args.data)
    chosen = choose(records, args.kinds, args.limit)
    train_plans = _train_plans(args.train_data)
    out = Path(args.out)
    with processes() as (rank, world, wait):
        if rank == 0:
            claim(out, _settings(args), args.overwrite)
        wait()
        stores = [Store(out, name) for name in ("predictions", *([BLACKOUT] if args.blackout else []))]
        if any(store.missing([chosen]) for store in stores):
            _predict(args, Mixture([(records, 1.0)]), chosen, stores, rank, world)
        wait()
        if rank == 0:
            if lacking := sum(len(store.missing([[place] for place in chosen])) for store in stores):
                raise SennaError(f"{out}: {lacking} predictions are not there; run the same command again to make them")
            _judge(args, [store.join() for store in stores], train_plans, out)
    return 0


def choose(records: Any, kinds: str, limit: int | None) -> list[int]:
    """The places of the records of these kinds ("plan,motion", "all"), the first ``limit``. Raises UsageError."""
    wanted = {kind.strip() for kind in kinds.split(",")}
    if unknown := sorted(wanted - {"all", *records.kind_names}):
        raise UsageError(
            f"{records.path} has no {', '.join(unknown)} (--kinds); it has: {', '.join(records.kind_names)}"
        )
    names = records.kind_names
    chosen = [place for place, kind in enumerate(records.kinds.tolist()) if "all" in wanted or names[kind] in wanted]
    return chosen[:limit]


@contextmanager
def processes() -> Iterator[tuple[int, int, Callable[[], None]]]:
    """Rank, number of processes (torchrun's), and a function that waits for all of them."""
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        yield 0, 1, lambda: None
        return
    import torch.distributed as dist

    # gloo needs no GPU, and a slow process is waited for however long it takes.
    dist.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield rank, world, dist.barrier
    finally:
        dist.destroy_process_group()


def _predict(args: EvaluateArguments, records: Any, chosen: list[int], stores: list, rank: int, world: int) -> None:
    """Load the model and fill the stores."""
    import torch

    from senna.data.dataset import ConversationDataset
    from senna.evaluate import predict as p
    from senna.evaluate.score import PlanScorer
    from senna.model import load_model

    device = args.device
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    model, tokenizer, processor = load_model(args.model, args.base, args.quantization, _dtype(args.dtype), device)
    dataset = ConversationDataset(
        records, tokenizer, processor, args.image_folder, args.version, args.aspect_ratio, args.image_decode,
        model.config.mm_adapter_tokens,
    )  # fmt: skip
    plans = [place for place in chosen if records.kind_names[records.kinds[place]] == "plan"]
    scores = args.mode == "score"
    others = [place for place in chosen if not scores or place not in set(plans)]
    patience, share = p.SkipBudget(args.skip_bad_samples), p.RankShare(rank, world, args.workers)
    for store in stores:
        blackout = store.path.stem == BLACKOUT
        what = "images blacked out" if blackout else "plans"
        if scores and plans:
            scorer = PlanScorer(
                model, tokenizer, args.version, p.find_answer_ending(records, plans), args.pack_attention
            )
            asked = p.PromptDataset(dataset, scorer.encoder, blackout)
            p.predict(
                store, asked, p.cut_into_batches(plans, args.batch_size), p.scored_fields(scorer), share, patience, what
            )
        if others:
            speaker = p.TextGenerator(model, tokenizer, args.max_new_tokens)
            asked = p.PromptDataset(dataset, None, blackout)
            p.predict(
                store,
                asked,
                p.cut_into_batches(others, args.batch_size),
                p.generated_fields(speaker),
                share,
                patience,
                what,
            )


def _dtype(name: str) -> Any:
    import torch

    known = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    known |= {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in known:
        raise UsageError(f"--dtype {name}: one of {', '.join(known)}")
    return known[name]


def _settings(args: EvaluateArguments) -> dict[str, Any]:
    """What decides the predictions: kept in OUT/run.json, so that two evaluations are never mixed."""
    of_text = ("mode", "kinds", "limit", "batch_size", "max_new_tokens", "version", "base", "quantization", "dtype")
    names = (*of_text, "aspect_ratio", "image_decode", "image_folder", "pack_attention")
    settings = {name: getattr(args, name) for name in names}
    settings |= {"model": str(args.model), "model_files": stamp(Path(args.model))}
    return settings | {"data": str(args.data), "data_files": stamp(Path(args.data))}


def _train_plans(path: str | None) -> list[dict[str, str]] | None:
    """Question and answer of every plan of the training records."""
    if path is None:
        return None
    from senna.record_file import open_records

    records = open_records(path)
    plans = [records[place] for place in choose(records, "plan", None)]
    return [
        {"question": plan["conversations"][-2]["value"], "truth": plan["conversations"][-1]["value"]}
        for plan in plans
        if len(plan["conversations"]) > 1
    ]


def _judge(
    args: EvaluateArguments, predictions: "list[list[Prediction]]", train_plans: list[dict[str, str]] | None, out: Path
) -> None:
    """Write metrics.json and the report, and print the headline."""
    from senna.evaluate.metrics.evaluate_predictions import evaluate_predictions
    from senna.evaluate.report.console import headline
    from senna.evaluate.report.frame_cards import picture_finder
    from senna.evaluate.report.report_page import write_report

    usable = [[one for one in some if "error" not in one] for some in predictions]
    facts = {
        name: value for name, value in asdict(args).items() if name in ("model", "data", "mode", "dtype", "train_data")
    }
    metrics = evaluate_predictions(
        usable[0],
        blackout=usable[1] if args.blackout else None,
        train_plans=train_plans,
        train_name=Path(args.train_data).name if args.train_data else "",
        compat=args.compat,
        run={**facts, "records that could not be used": len(predictions[0]) - len(usable[0])},
    )
    write_json(out / "metrics.json", metrics)
    report = write_report(out, metrics, usable[0], picture_finder(args.image_folder, args.data))
    print(headline(metrics))
    print(f"report  {report}")

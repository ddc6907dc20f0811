"""`senna evaluate`: predict records, compute metrics from the predictions, and write a report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from senna.contents import absolute, file_content, model_content
from senna.decision import LIKELIEST
from senna.errors import SennaError, UsageError
from senna.evaluate.decisions import DEFAULT_RULES, Rules, open_rules
from senna.evaluate.predictions import BLACKOUT, PREDICTIONS, Prediction, Store, claim
from senna.evaluate.server_flags import check_flags
from senna.file_lock import lock_folder
from senna.files import write_json
from senna.flags import flag, parse_flags, shared_flag
from senna.futures import Futures, futures_path, read_futures
from senna.kinds import PLAN, TRAJECTORY
from senna.processes import call_in_first
from senna.ranks import read_ranks
from senna.record_file import RecordFile, open_records

if TYPE_CHECKING:
    from senna.evaluate.server import ServedModel

MODES, COMPATS = (None, "score", "generate"), (None, "original")


@dataclass
class EvaluateArguments:
    """Flags of `senna evaluate`."""

    data: str = flag("the records to evaluate on: .jsonl or .json")
    out: str = flag("output folder, for predictions.jsonl, metrics.json, report.html and plots")
    model: str | None = shared_flag("model", default=None)
    server: str | None = flag(
        "instead of --model, the address of a server: senna serve, or any vision-language model with OpenAI's interface, for "
        "example http://localhost:8000/v1; its key is read from OPENAI_API_KEY",
        None,
    )
    served_model: str | None = shared_flag("served_model")
    concurrency: int = flag("simultaneous requests to the server", 16)
    prompts: str | None = flag(
        "a file like senna/templates.yaml, whose section `server` is the text before each question to a model of a server that "
        "is not Senna",
        None,
    )
    image_folder: str | None = shared_flag("image_folder")
    mode: str | None = flag(
        "how plans are predicted: score, the probability of each of the twenty meta-actions from one forward pass; or "
        "generate, greedy text that must be a meta-action (default: score, or generate if a server cannot score)",
        None,
    )
    decision: str = shared_flag("decision", ". All are reported; this one is compared with the baselines")
    kinds: str = flag(
        "kinds of questions: plan, several as plan,traffic_light,motion, or all; other kinds than plan are answered with text",
        "plan",
    )
    blackout: bool = flag("evaluate with black images as well, to see how much the model relies on its images", False)
    train_data: str | None = flag(
        "training records, on which the baselines are fitted (default: DATA itself, which favours the baselines)", None
    )
    compat: str | None = flag("original: also compute the published script's metrics", None)
    limit: int | None = flag("use the first records only", None)
    batch_size: int = shared_flag("batch_size")
    max_new_tokens: int = flag("maximum length of a generated answer", 256)
    trajectory_tries: int = flag(
        "generate a trajectory that does not follow its plan again, at random, up to this many answers in total", 1
    )
    skip_bad_samples: int = shared_flag("skip_bad_samples")
    version: str = shared_flag("version")
    aspect_ratio: str = shared_flag("aspect_ratio")
    image_decode: str = shared_flag("image_decode")
    base: str | None = shared_flag("base")
    quantization: str | None = shared_flag("quantization")
    dtype: str = shared_flag("dtype")
    device: str = shared_flag("device")
    pack_attention: str = flag(
        "attention for the twenty answers: auto (split on a CPU, flex on CUDA), split, dense or flex", "auto"
    )
    workers: int = shared_flag("workers")
    overwrite: bool = flag("start anew if OUT holds another evaluation", False)


def main(argv: list[str]) -> int:
    """Run `senna evaluate` and return the exit code."""
    if any(word.partition("=")[0] == "--compare" for word in argv):
        raise UsageError(
            "--compare is not a flag of `senna evaluate` any more", remedy="run `senna compare A B [C ...] --out DIR`"
        )
    args = parse_flags(
        EvaluateArguments,
        argv,
        "senna evaluate",
        "Evaluate a model: write OUT/metrics.json and OUT/report.html, with baselines and an interval for every figure. Run "
        "the same command again to continue an interrupted evaluation; the result is the same. Several GPUs: torchrun "
        "--nproc_per_node N -m senna evaluate ... A model behind a server: --server URL. To compare evaluations: "
        "senna compare A B.",
    )
    check(args)
    return run(args)


def check(args: EvaluateArguments) -> None:
    """Raise UsageError for flags with values that cannot be used, or that do not fit together."""
    check_flags(args)
    for name, known in (("mode", MODES), ("compat", COMPATS)):
        value = getattr(args, name)
        if value not in known:
            raise UsageError(
                f"--{name} {value} is unknown", remedy=f"use one of {', '.join(choice for choice in known if choice)}"
            )
    for name in ("limit", "batch_size", "max_new_tokens", "trajectory_tries"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UsageError(f"--{name.replace('_', '-')} {value} is too small", remedy="use at least 1")


def run(args: EvaluateArguments) -> int:
    """Run an evaluation and return the exit code. Raises SennaError."""
    records = open_records(args.data, args.skip_bad_samples)
    indices = choose(records, args.kinds, args.limit)
    train_plans = _train_plans(args.train_data)
    out = Path(args.out)
    args, served = _settle(args)
    rules = _rules(args, records, indices, served)
    with predicted(args, records, indices, served, rules) as stores:
        if stores is not None:
            _write_results(args, [store.join() for store in stores], train_plans, rules, out)
    return 0


@contextmanager
def predicted(
    args: EvaluateArguments, records: RecordFile, indices: list[int], served: "ServedModel | None" = None,
    rules: Rules = DEFAULT_RULES,
) -> Iterator[list[Store] | None]:  # fmt: skip
    """Make the predictions that OUT lacks, and yield their stores in the first process of a run, None in others.

    OUT is locked meanwhile. Trajectories whose questions state plans by other rules are predicted again. Raises SennaError.
    """
    out = Path(args.out)
    with ExitStack() as held, processes() as (rank, world, barrier):
        run_id = call_in_first(lambda: _occupy(out, args, served, held))
        names = [PREDICTIONS, *([BLACKOUT] if args.blackout else [])]
        stores = [Store(out, name, run_id) for name in names]
        call_in_first(lambda: [store.discard_some(rules.is_stale(store)) for store in stores])
        if call_in_first(lambda: any(store.missing([indices]) for store in stores)):
            if served:
                served.predict(args, records, indices, stores, rules)
            else:
                _predict(args, records, indices, stores, rules, rank, world, barrier)
        barrier()
        if rank == 0 and (missing := sum(len(store.missing([[index] for index in indices])) for store in stores)):
            raise SennaError(f"{out}: {missing} predictions are missing", remedy="run the same command again")
        yield stores if rank == 0 else None


def _rules(args: EvaluateArguments, records: RecordFile, indices: list[int], served: "ServedModel | None") -> Rules:
    """Return the decision rules of an evaluation. Raises UsageError; see `senna.evaluate.decisions.open_rules`."""
    from senna.evaluate.shared_frames import FrameSet

    if args.decision != LIKELIEST and args.mode == "generate":
        raise UsageError(f"--decision {args.decision} needs the scores of --mode score", remedy="omit one of them")
    plans = [index for index in indices if records.kind_names[records.kinds[index]] == PLAN]
    evaluated = FrameSet.of_file(records, plans, args.image_folder)
    rules = (
        served.rules(args.decision, evaluated)
        if served
        else open_rules(args.decision, args.model, args.base, evaluated)
    )
    if rules.note and read_ranks().rank == 0:
        print(f"note: the balanced decision is left out: {rules.note}", flush=True)
    return rules


def _settle(args: EvaluateArguments) -> "tuple[EvaluateArguments, ServedModel | None]":
    """Return the flags with their mode, and the model of the server, if there is one."""
    if not args.server:
        return replace(args, mode=args.mode or "score"), None
    from senna.evaluate.server import connect

    served = connect(args)
    return served.settle(args), served


def _occupy(out: Path, args: EvaluateArguments, served: "ServedModel | None", held: ExitStack) -> str:
    """Lock the output folder until ``held`` is closed, start or continue the evaluation in it, and return its id."""
    held.enter_context(lock_folder(out, remedy="wait until it ends, stop it, or choose another --out"))
    return claim(out, _settings(args, served), args.overwrite)


def choose(records: RecordFile, kinds: str, limit: int | None) -> list[int]:
    """Return the indices of the first ``limit`` records of these kinds.

    Args:
        kinds: names separated by commas, or "all".

    Raises:
        UsageError: the file has no record of a kind.
    """
    wanted = {kind.strip() for kind in kinds.split(",")}
    names = records.kind_names
    if unknown := sorted(wanted - {"all", *names}):
        raise UsageError(
            f"--kinds: {records.path} has no records of kind {', '.join(unknown)}",
            remedy=f"choose from {', '.join(names)}",
        )
    codes = records.kinds.tolist()
    return [index for index, kind in enumerate(codes) if "all" in wanted or names[kind] in wanted][:limit]


@contextmanager
def processes() -> Iterator[tuple[int, int, Callable[[], None]]]:
    """Yield the rank, the world size and a barrier; the run is a single process unless a launcher started it."""
    rank, _, world, _ = read_ranks()
    if world == 1:
        yield 0, 1, lambda: None
        return
    import torch.distributed as dist

    # gloo works without GPUs. The timeout is long because ranks may finish at very different times.
    dist.init_process_group("gloo", timeout=timedelta(days=30))
    try:
        yield rank, world, dist.barrier
    finally:
        dist.destroy_process_group()


def _predict(
    args: EvaluateArguments, records: RecordFile, indices: list[int], stores: list[Store], rules: Rules, rank: int,
    world: int, barrier: Callable[[], None],
) -> None:  # fmt: skip
    """Load the model and predict this process's records for each store."""
    import torch

    from senna.data.dataset import ConversationDataset
    from senna.evaluate import predict as p
    from senna.evaluate.score import PlanScorer
    from senna.model import load_model

    device = args.device
    if device == "auto" and torch.cuda.is_available():
        device = f"cuda:{read_ranks().local_rank}"
    model, tokenizer, processor = load_model(args.model, args.base, args.quantization, _dtype(args.dtype), device)
    if model.device.type == "cuda":
        torch.cuda.set_device(model.device)  # some kernels allocate on the current device, by default the first GPU
    dataset = ConversationDataset(
        records, tokenizer, processor, args.image_folder, args.version, args.aspect_ratio, args.image_decode,
        model.config.mm_adapter_tokens,
    )  # fmt: skip
    plans = [index for index in indices if records.kind_names[records.kinds[index]] == PLAN]
    scored = plans if args.mode == "score" else []
    # By kind: answers of one kind are about equally long, and a batch takes as long as its longest answer.
    others = sorted(set(indices) - set(scored), key=lambda index: (records.kinds[index], index))
    generated, trajectories = p.split_trajectories(records, others)
    budget, share = p.SkipBudget(args.skip_bad_samples), p.RankShare(rank, world, args.workers)
    for store in stores:
        blackout = store.path.stem == BLACKOUT
        description = "black images" if blackout else "predictions"
        if scored:
            ending = p.find_answer_ending(records, scored)
            scorer = PlanScorer(model, tokenizer, args.version, ending, args.pack_attention)
            prompts = p.PromptDataset(dataset, scorer.encoder, blackout)
            batches = p.cut_into_batches(scored, args.batch_size)
            p.predict(store, prompts, batches, p.scored_fields(scorer), share, budget, description)
        generator = p.TextGenerator(model, tokenizer, args.max_new_tokens)
        if generated:
            prompts = p.PromptDataset(dataset, None, blackout)
            batches = p.cut_into_batches(generated, args.batch_size)
            p.predict(store, prompts, batches, p.generated_fields(generator), share, budget, description)
        if trajectories:
            barrier()  # the questions state the plans, which other processes may have predicted
            prompts = p.PromptDataset(dataset, None, blackout, rules.plans(store))
            batches = p.cut_into_batches(trajectories, args.batch_size)
            answer = p.trajectory_fields(generator, args.trajectory_tries)
            p.predict(store, prompts, batches, answer, share, budget, f"{description}, paths")


def _dtype(name: str) -> Any:
    import torch

    known = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    known |= {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name not in known:
        raise UsageError(f"--dtype {name} is unknown", remedy=f"use one of {', '.join(known)}")
    return known[name]


def _settings(args: EvaluateArguments, served: "ServedModel | None") -> dict[str, Any]:
    """Return everything that determines the predictions, for OUT/run.json."""
    names = (
        "mode", "kinds", "limit", "batch_size", "max_new_tokens", "version", "base", "quantization", "dtype",
        "aspect_ratio", "image_decode", "pack_attention",
    )  # fmt: skip
    settings = {name: getattr(args, name) for name in names}
    if args.trajectory_tries > 1:  # evaluations of earlier versions have no such setting
        settings["trajectory_tries"] = args.trajectory_tries
    settings |= {"image_folder": absolute(args.image_folder or Path(args.data).parent)}
    if served:
        settings |= served.settings
    else:
        settings |= {"model": absolute(args.model), "model_files": model_content(args.model, args.base)}
    return settings | {"data": absolute(args.data), "data_files": file_content(args.data)}


def _train_plans(path: str | None) -> list[dict[str, Any]] | None:
    """Return question, ground truth and stated facts of every plan of the training records."""
    if path is None:
        return None
    from senna.evaluate.predict import stated_facts

    records = open_records(path)
    plans = []
    for index in choose(records, PLAN, None):
        record = records[index]
        turns = record["conversations"]
        if len(turns) > 1:
            plans.append({"question": turns[-2]["value"], "truth": turns[-1]["value"], **stated_facts(record)})
    return plans


def _write_results(
    args: EvaluateArguments,
    predictions: Sequence[Sequence[Prediction]],
    train_plans: list[dict[str, Any]] | None,
    rules: Rules,
    out: Path,
) -> None:
    """Write metrics.json and the report, and print the headline.

    Args:
        predictions: those with images and, with ``--blackout``, those with black images.
    """
    from senna.evaluate.metrics.evaluate_predictions import evaluate_predictions
    from senna.evaluate.report.console import headline
    from senna.evaluate.report.frame_cards import image_finder
    from senna.evaluate.report.report_page import write_report

    usable = [[prediction for prediction in part if "error" not in prediction] for part in predictions]
    facts = {name: getattr(args, name) for name in ("model", "data", "mode", "dtype", "train_data")}
    metrics = evaluate_predictions(
        usable[0],
        blackout=usable[1] if args.blackout else None,
        train_plans=train_plans,
        train_name=Path(args.train_data).name if args.train_data else "",
        compat=args.compat,
        rules=rules,
        run={**facts, "records that could not be used": len(predictions[0]) - len(usable[0])},
    )
    futures = read_futures(futures_path(args.data), [row["token"] for row in usable[0] if row["kind"] == TRAJECTORY])
    if trajectory := _trajectory_figures(args, usable, futures, rules):
        metrics["trajectory"] = trajectory
    write_json(out / "metrics.json", metrics)
    images = image_finder(args.image_folder, args.data)
    report = write_report(out, metrics, rules.decide(usable[0]), images, futures)
    print(headline(metrics))
    print(f"report  {report}")


def _trajectory_figures(
    args: EvaluateArguments, usable: Sequence[Sequence[Prediction]], futures: Mapping[str, Futures], rules: Rules
) -> dict[str, Any] | None:
    """Return ``trajectory`` of metrics.json; None without trajectories."""
    from senna.evaluate.metrics.trajectory import trajectory_metrics
    from senna.evaluate.predict import facts_of

    rows, *black = usable
    if not any(row["kind"] == TRAJECTORY for row in rows):
        return None
    train: list[dict[str, Any]] = []
    if args.train_data:
        records = open_records(args.train_data)
        is_wanted = [records.kind_names[kind] == TRAJECTORY for kind in records.kinds]
        train = [facts_of(records[index], []) for index, wanted in enumerate(is_wanted) if wanted]
    return trajectory_metrics(
        rows,
        futures,
        black[0] if args.blackout else None,
        train,
        read_futures(futures_path(args.train_data), [row["token"] for row in train]) if args.train_data else {},
        Path(args.train_data).name if args.train_data else "",
        rules.headline if args.mode == "score" else "",
    )

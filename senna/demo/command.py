"""`senna demo`: a web page that asks a model about six images."""

import importlib.util
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from senna.decision import Decision, open_decision
from senna.demo.uploads import MOST_MEGAPIXELS
from senna.errors import UsageError
from senna.flags import flag, parse_flags, shared_flag

if TYPE_CHECKING:
    from senna.demo.examples import Example
    from senna.demo.page import Desk


@dataclass
class DemoArguments:
    """Flags of `senna demo`."""

    model: str = shared_flag("model")
    data: str | None = flag(
        "a file of records with example frames (default: the records of the quickstart, if they exist)", None
    )
    image_folder: str | None = shared_flag("image_folder")
    decision: str = shared_flag("decision")
    port: int = flag("port to listen on; 0 chooses a free one", 7860)
    host: str = flag("address to listen on; 0.0.0.0 admits everyone who can reach this machine", "127.0.0.1")
    device: str = shared_flag("device")
    quantization: str | None = shared_flag("quantization")
    dtype: str = shared_flag("dtype")
    max_image_megapixels: float = flag("refuse larger images", MOST_MEGAPIXELS)


def main(argv: list[str]) -> int:
    """Run `senna demo` until it is stopped. Raises SennaError."""
    args = parse_flags(
        DemoArguments,
        argv,
        prog="senna demo",
        description="Serve a web page on this machine: six images and a question in; the probabilities of the twenty "
        "meta-actions, or a streamed answer, out.",
        epilog="It binds to 127.0.0.1 and neither fetches from nor sends to other hosts. To use it from another machine: "
        "ssh -L 7860:127.0.0.1:7860 HOST.",
    )
    _check(args)
    with tempfile.TemporaryDirectory(prefix="senna-demo-") as uploads:
        # gradio reads these when it is imported.
        os.environ.update(GRADIO_TEMP_DIR=uploads, GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
        previous = signal.signal(signal.SIGTERM, _stop)  # so that the uploads are removed in this case too
        try:
            return _run(args, uploads)
        except KeyboardInterrupt:
            print("\nstopped", flush=True)
            return 0
        finally:
            signal.signal(signal.SIGTERM, previous)


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _check(args: DemoArguments) -> None:
    if importlib.util.find_spec("gradio") is None:
        raise UsageError("gradio is not installed", remedy="pip install -c constraints.txt -e '.[demo]'")
    if args.max_image_megapixels <= 0:
        raise UsageError(
            f"--max-image-megapixels {args.max_image_megapixels:g} is too small", remedy="use a number above 0"
        )
    if args.image_folder and not args.data:
        raise UsageError("--image-folder needs --data", remedy="give the file of records with --data")
    if args.dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UsageError(f"--dtype {args.dtype} is unknown", remedy="use auto, float32, bfloat16 or float16")


def _run(args: DemoArguments, uploads: str) -> int:
    from senna.demo.examples import find_examples
    from senna.demo.port import address_of, is_loopback, listen

    decision = open_decision(args.decision, args.model)
    with listen(args.host, args.port) as listener:
        examples = find_examples(args.data, args.image_folder, most_megapixels=args.max_image_megapixels)
        print(f"loading {args.model} ...", flush=True)
        desk, device = _desk(args, examples, uploads, decision)
        from senna.demo.page import build_page
        from senna.demo.serve import serve

        page = build_page(desk, Path(args.model.rstrip("/")).name or args.model, device)

        def ready() -> None:
            if not is_loopback(listener):
                print(f"WARNING --host {args.host}: everyone who can reach this machine can use the page", flush=True)
            print(f"{address_of(listener)}   (Ctrl-C to stop)", flush=True)

        try:
            serve(page, listener, uploads, ready)
        finally:
            desk.answerer.close()
    return 0


def _desk(args: DemoArguments, examples: "list[Example]", uploads: str, decision: Decision) -> "tuple[Desk, str]":
    """Load the model; return the event handlers and the type of its device."""
    import torch

    from senna.demo.answer import Answerer
    from senna.demo.page import Desk
    from senna.model import load_model

    dtype = args.dtype if args.dtype == "auto" else getattr(torch, args.dtype)
    model, tokenizer, image_processor = load_model(
        args.model, quantization=args.quantization, dtype=dtype, device=args.device
    )
    answerer = Answerer(model, tokenizer, image_processor, decision)
    return Desk(answerer, examples, args.max_image_megapixels, Path(uploads)), model.device.type

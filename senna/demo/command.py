"""`senna demo`: a web page that asks a model about six images."""

import importlib.util
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from senna.decision import Decision, open_decision
from senna.demo.uploads import MOST_MEGAPIXELS
from senna.errors import UsageError
from senna.flags import flag, parse_flags, shared_flag
from senna.until_stopped import run_until_stopped

if TYPE_CHECKING:
    from senna.demo.answer import Answerer
    from senna.demo.remote import RemoteAnswerer


@dataclass
class DemoArguments:
    """Flags of `senna demo`."""

    model: str | None = shared_flag("model", default=None)
    server: str | None = flag(
        "instead of --model, the address of a server of `senna serve`, for example http://localhost:8000/v1; its key is read "
        "from OPENAI_API_KEY",
        None,
    )
    served_model: str | None = shared_flag("served_model")
    data: str | None = flag(
        "a file of records with example frames (default: the records of the quickstart, if they exist)", None
    )
    image_folder: str | None = shared_flag("image_folder")
    decision: str = shared_flag("decision")
    port: int = shared_flag("port")
    host: str = shared_flag("host")
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
        epilog="It binds to 127.0.0.1 and neither fetches from nor sends to other hosts but --server. To use it from another "
        "machine: ssh -L 7860:127.0.0.1:7860 HOST.",
    )
    _check(args)
    with tempfile.TemporaryDirectory(prefix="senna-demo-") as uploads:
        # gradio reads these when it is imported.
        os.environ.update(GRADIO_TEMP_DIR=uploads, GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
        return run_until_stopped(lambda: _run(args, uploads))


def _check(args: DemoArguments) -> None:
    if (args.model is None) == (args.server is None):
        raise UsageError(
            "--model or --server is missing" if args.model is None else "--model does not fit --server",
            remedy="name a model, or the address of a server",
        )
    of_models = {"device": args.device, "quantization": args.quantization, "dtype": args.dtype}
    if args.server and (given := [name for name, value in of_models.items() if value not in (None, "auto")]):
        raise UsageError(
            f"--{given[0]} does not fit --server", remedy="leave it out: it is for a model on this machine"
        )
    if args.served_model and not args.server:
        raise UsageError("--served-model needs --server", remedy="give the address of a server, or leave it out")
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

    decision = open_decision(args.decision, args.model) if args.model else None
    with listen(args.host, args.port) as listener:
        examples = find_examples(args.data, args.image_folder, most_megapixels=args.max_image_megapixels)
        print(f"loading {args.model or args.server} ...", flush=True)
        answerer, name, device = _remote_answerer(args) if decision is None else _answerer(args, decision)
        from senna.demo.page import Desk, build_page
        from senna.demo.serve import serve

        desk = Desk(answerer, examples, args.max_image_megapixels, Path(uploads))
        page = build_page(desk, name, device)

        def ready() -> None:
            if not is_loopback(listener):
                print(f"WARNING --host {args.host}: everyone who can reach this machine can use the page", flush=True)
            print(f"{address_of(listener)}   (Ctrl-C to stop)", flush=True)

        try:
            serve(page, listener, uploads, ready)
        finally:
            answerer.close()
    return 0


def _answerer(args: DemoArguments, decision: Decision) -> "tuple[Answerer, str, str]":
    """Load the model; return it, its name and the type of its device."""
    import torch

    from senna.demo.answer import Answerer
    from senna.model import load_model

    assert args.model is not None
    dtype = args.dtype if args.dtype == "auto" else getattr(torch, args.dtype)
    model, tokenizer, image_processor = load_model(
        args.model, quantization=args.quantization, dtype=dtype, device=args.device
    )
    name = Path(args.model.rstrip("/")).name or args.model
    return Answerer(model, tokenizer, image_processor, decision), name, model.device.type


def _remote_answerer(args: DemoArguments) -> "tuple[RemoteAnswerer, str, str]":
    """Connect to the server; return its model, the name of the model and the server's address."""
    from senna.demo.remote import RemoteAnswerer
    from senna.evaluate.command import EvaluateArguments
    from senna.evaluate.server import connect
    from senna.servers.address import RetryPolicy

    asked = EvaluateArguments(data="", out="", server=args.server, served_model=args.served_model)
    served = connect(asked, RetryPolicy(attempts=2, longest_pause=1))  # a visitor waits for the answer
    return RemoteAnswerer(served, served.decision(args.decision)), served.name, str(served.connection.server)

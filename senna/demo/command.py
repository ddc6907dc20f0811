"""`senna demo`: a web page that asks a model about six pictures."""

import importlib.util
import os
import signal
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from senna.errors import UsageError
from senna.flags import flag, parse_flags

if TYPE_CHECKING:
    from senna.demo.examples import Example
    from senna.demo.page import Desk


@dataclass
class DemoArguments:
    """Flags of `senna demo`."""

    model: str = flag("a trained model: its folder, a LoRA folder, or a hub name")
    data: str | None = flag(
        "a file of records to take example frames from (default: the embedded world's, if it is made)", None
    )
    image_folder: str | None = flag("where --data's image paths start (default: beside the file)", None)
    port: int = flag("0 takes a free one", 7860)
    host: str = flag("the address to listen on; 0.0.0.0 lets everybody in who can reach this machine", "127.0.0.1")
    device: str = flag("cpu, cuda, cuda:1; auto takes the GPU where there is one", "auto")
    quantization: str | None = flag("nf4 or int8: the language model in 4 or 8 bits", None)
    dtype: str = flag("auto (the checkpoint's own), float32, bfloat16 or float16", "auto")
    max_image_megapixels: float = flag("larger pictures are refused", 40.0)


def main(argv: list[str]) -> int:
    """Run the command until it is stopped; raises SennaError."""
    args = parse_flags(
        DemoArguments,
        argv,
        prog="senna demo",
        description="A web page on this machine: six pictures and a question in; the twenty meta-actions' probabilities, or "
        "an answer as it is written, out.",
        epilog="It binds to 127.0.0.1, fetches nothing from elsewhere and shares nothing. From another machine: "
        "ssh -L 7860:127.0.0.1:7860 HOST.",
    )
    _check(args)
    with tempfile.TemporaryDirectory(prefix="senna-demo-") as uploads:
        # gradio reads these when it is imported.
        os.environ.update(GRADIO_TEMP_DIR=uploads, GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
        previous = signal.signal(signal.SIGTERM, _stop)  # so that the uploads are removed then, too
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
        raise UsageError("the page needs gradio: pip install -c constraints.txt '.[demo]'")
    if args.max_image_megapixels <= 0:
        raise UsageError(f"--max-image-megapixels {args.max_image_megapixels:g}: must be more than 0")
    if args.image_folder and not args.data:
        raise UsageError("--image-folder goes with --data, the file whose images are there")
    if args.dtype not in ("auto", "float32", "bfloat16", "float16"):
        raise UsageError(f"--dtype {args.dtype}: auto, float32, bfloat16 or float16")


def _run(args: DemoArguments, uploads: str) -> int:
    from senna.demo.examples import find_examples
    from senna.demo.port import address_of, is_loopback, listen

    with listen(args.host, args.port) as listener:
        examples = find_examples(args.data, args.image_folder)
        print(f"loading {args.model} ...", flush=True)
        desk, device = _desk(args, examples)
        from senna.demo.page import build_page
        from senna.demo.serve import serve

        page = build_page(desk, Path(args.model.rstrip("/")).name or args.model, device)

        def ready() -> None:
            if not is_loopback(listener):
                print(f"WARNING --host {args.host}: whoever can reach this machine can use the page", flush=True)
            print(f"{address_of(listener)}   (Ctrl-C stops it)", flush=True)

        try:
            serve(page, listener, uploads, ready)
        finally:
            desk.answerer.close()
    return 0


def _desk(args: DemoArguments, examples: "list[Example]") -> "tuple[Desk, str]":
    """What answers, and the kind of device that it is on."""
    import torch

    from senna.demo.answer import Answerer
    from senna.demo.page import Desk
    from senna.model import load_model

    _check_device(args.device)
    dtype = args.dtype if args.dtype == "auto" else getattr(torch, args.dtype)
    model, tokenizer, image_processor = load_model(
        args.model, quantization=args.quantization, dtype=dtype, device=args.device
    )
    return Desk(Answerer(model, tokenizer, image_processor), examples, args.max_image_megapixels), model.device.type


def _check_device(name: str) -> None:
    import torch

    if name == "auto":
        return
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used: {str(error).splitlines()[0]}; auto finds one") from error

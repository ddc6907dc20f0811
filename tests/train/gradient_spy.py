"""`senna train` that also writes its first step's gradient, put together from all processes."""

import torch
from safetensors.torch import save_file

from senna.doctor.preflight import before_training
from senna.train.arguments import parse_arguments
from senna.train.run import build_trainer


def write_gradients(engine, path: str) -> None:
    """Of every trained parameter, by DeepSpeed's own call, which all processes make."""
    from deepspeed.utils import safe_get_full_grad

    named = {name: p for name, p in engine.module.named_parameters() if p.requires_grad}
    gradients = {name: safe_get_full_grad(p) for name, p in named.items()}
    if torch.distributed.get_rank() == 0:
        save_file({name: gradient.float().contiguous() for name, gradient in gradients.items()}, path)


def train(words: list[str]) -> None:
    """``words``: the file to write (safetensors), then flags of `senna train`."""
    path, *flags = words
    args = parse_arguments(flags)
    trainer = build_trainer(args, before_training(args)[1])
    prepare = trainer._prepare_for_training

    def prepare_and_watch(*arguments):
        prepared = prepare(*arguments)
        engine = trainer.model_wrapped
        step = engine.step

        def write_and_step(*arguments, **options):
            write_gradients(engine, path)
            engine.step = step
            return step(*arguments, **options)

        engine.step = write_and_step
        return prepared

    trainer._prepare_for_training = prepare_and_watch
    trainer.train()

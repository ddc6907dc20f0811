"""`senna train` that also writes the gradient of its first step, gathered from all processes."""

import torch
from safetensors.torch import save_file

from senna.train.arguments import parse_arguments
from senna.train.run import build_trainer


def write_gradients(engine, path: str) -> None:
    """Write the gradient of every trained parameter. All processes must call it."""
    from deepspeed.utils import safe_get_full_grad

    trained = {name: parameter for name, parameter in engine.module.named_parameters() if parameter.requires_grad}
    gradients = {name: safe_get_full_grad(parameter) for name, parameter in trained.items()}
    if torch.distributed.get_rank() == 0:
        save_file({name: gradient.float().contiguous() for name, gradient in gradients.items()}, path)


def train(words: list[str]) -> None:
    """Run `senna train`. ``words`` are the safetensors file to write, and then flags of `senna train`."""
    path, *flags = words
    trainer = build_trainer(parse_arguments(flags))
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

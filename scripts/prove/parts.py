"""The parts of the proof, in the order in which they run. Imports nothing heavy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A part of the proof, which runs in a process of its own.

    Attributes:
        name: the name of the part and of its function in ``module``.
        module: a module of this package.
        seconds: time limit. A part may also use the seconds that earlier parts have left.
        about: what the part shows.
    """

    name: str
    module: str
    seconds: int
    about: str


PARTS = (
    Part("machine", "commands", 20, "the device, its driver, and the versions of the packages"),
    Part("doctor", "commands", 45, "senna doctor, which also compiles flex attention"),
    Part("tests", "commands", 110, "the tests that need a GPU: pytest -m gpu"),
    Part("attention", "attention", 50, "the gradients of flex, split and dense attention, against separate questions"),
    Part("stage1", "training", 45, "steps of stage 1: 32 captions, packed and unpacked"),
    Part("lora", "training", 50, "steps of LoRA: the 13 questions of a frame, packed and unpacked"),
    Part("qlora", "training", 60, "the same for QLoRA (nf4)"),
    Part("full", "training", 35, "the same for full training, if the card has the memory"),
    Part("plans", "inference", 45, "the scores of all twenty plans, and greedy decoding"),
    Part("loading", "inference", 35, "a checkpoint loaded in bf16, nf4 and int8, and the logits compared"),
    Part("resume", "resume", 45, "a training run that is killed (kill -9) and continued, against one that is not"),
)

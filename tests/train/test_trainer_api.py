"""The methods of transformers' Trainer that Senna overrides or relies on have the signatures that it was written for."""

import inspect

import pytest
from transformers import Trainer

from senna.train.timed_trainer import TimedTrainer
from senna.train.trainer import SennaTrainer
from senna.train.trainer_checkpoint import CheckpointTrainer

# Parameters after self, read in transformers 5.17.0, 5.20.2 and 5.23.0, where they are the same.
PRIVATE = {
    "_get_train_sampler": ["train_dataset"],
    "_prepare_input": ["data"],
    "_get_grad_norm": ["model", "grad_norm"],
    "_load_from_checkpoint": ["resume_from_checkpoint", "model"],
    "_determine_best_metric": ["metrics", "trial"],
    "_save_checkpoint": ["model", "trial"],
    "_prepare_for_training": ["max_steps", "train_dataloader", "resume_from_checkpoint"],
}
PUBLIC = {
    "get_batch_samples": ["epoch_iterator", "num_batches", "device"],
    "get_train_dataloader": [],
    "training_step": ["model", "inputs", "num_items_in_batch"],
    "compute_loss": ["model", "inputs", "return_outputs", "num_items_in_batch"],
    "create_optimizer": ["model"],
    "log": ["logs", "start_time"],
    "evaluate": ["eval_dataset", "ignore_keys", "metric_key_prefix"],
    "save_model": ["output_dir", "_internal_call"],
}
CALLED = {
    "_get_output_dir": ["trial"],  # replaced while a checkpoint is written
    "_load_optimizer_and_scheduler": ["checkpoint"],
    "get_decay_parameter_names": ["model"],
}


def parameters(kind: type, name: str) -> list[str]:
    return list(inspect.signature(getattr(kind, name)).parameters)[1:]


@pytest.mark.parametrize(("name", "expected"), [*PRIVATE.items(), *PUBLIC.items(), *CALLED.items()])
def test_a_method_of_the_trainer_takes_the_parameters_that_senna_passes(name, expected):
    assert parameters(Trainer, name) == expected


@pytest.mark.parametrize(("name", "expected"), [*PRIVATE.items(), *PUBLIC.items()])
def test_an_override_takes_the_same_parameters(name, expected):
    assert parameters(TimedTrainer, name) == expected
    assert parameters(SennaTrainer, name) == expected


def test_every_override_of_a_private_method_is_listed():
    own = {**vars(CheckpointTrainer), **vars(SennaTrainer), **vars(TimedTrainer)}
    overridden = {name for name in own if name.startswith("_") and not name.startswith("__")}
    assert {name for name in overridden if hasattr(Trainer, name)} == set(PRIVATE)

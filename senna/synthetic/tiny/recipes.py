"""The sizes of the tiny preset's Llama and CLIP tower, and the settings of their training.

This module needs no torch, so that a command that only compares them with those of a folder starts at once.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LlmRecipe:
    """Size of the Llama and its training.

    Attributes:
        prefix_positions: positions in front of a caption, equal to the number of adapter tokens of an image.
        batch_size: questions about a front view in a batch, as in stage 1.
        layout_share: share of the front views that have a layout.
        light_share: share of the questions about a front view that ask for the traffic light; of those about a view with a
            layout, half of the others ask for it, and the rest for a caption.
        driving_batch_size: driving questions in a batch.
        plan_share, trajectory_share: shares of these that ask for a plan and for a trajectory; the rest are of the other kinds.
        other_views_share: share of the questions for a trajectory with the views of another frame, so that the answer follows
            the stated plan even where the views contradict it.
        short_steps: first steps, on plans and motions in short and on questions with at most one view.
        short_batch_size, motion_batch_size: plans and motions in short in a batch.
        question_batch_size: questions with at most one view in a batch; a third is for a plan, the rest for a trajectory.
        word_share: share of the front views whose facts stand one word a position.
        mixed_share: share of the other texts whose positions are mixtures of facts; else each holds all the words of one.
        noise: upper end of the noise on the prefix, in standard deviations of the token embeddings.
        fact_weight: loss weight of the words of a caption that occur in its facts, relative to the other words.
    """

    hidden_size: int = 128
    layers: int = 4
    heads: int = 4
    max_positions: int = 2048
    vocab_size: int = 1152
    prefix_positions: int = 16
    short_steps: int = 800
    steps: int = 2200
    batch_size: int = 12
    learning_rate: float = 3e-3
    layout_share: float = 0.5
    light_share: float = 0.25
    word_share: float = 0.3
    mixed_share: float = 0.6
    driving_batch_size: int = 8
    plan_share: float = 0.4
    trajectory_share: float = 0.4
    other_views_share: float = 0.3
    short_batch_size: int = 48
    motion_batch_size: int = 24
    question_batch_size: int = 9
    noise: float = 0.6
    fact_weight: float = 5.0


@dataclass(frozen=True)
class TowerRecipe:
    """Size of the tower and its training on `scenarios * images_per_scenario` images."""

    image_size: int = 224
    patch_size: int = 16
    hidden_size: int = 96
    layers: int = 3
    scenarios: int = 320
    images_per_scenario: int = 36
    steps: int = 5000
    batch_size: int = 16
    learning_rate: float = 2e-3

"""What all designs share: seeds, and the smaller dish for designs of many dials."""

from __future__ import annotations

from typing import Any

from unifylens.config import Experiment
from unifylens.environment import profile, seed_count

Design = list[tuple[dict[str, Any], Experiment]]


def seeds() -> range:
    """Seeds that are reported: 4 in `quick`, 10 in `full`; `UNIFYLENS_SEEDS` asks for another number."""
    return range(seed_count(10 if profile() == "full" else 4))


def few_seeds(n: int) -> range:
    """The first `n` of `seeds` in `quick`, all of them in `full`: for what no claim rests on."""
    return seeds() if profile() == "full" else seeds()[:n]


SMALL: dict[str, Any] = {
    "world.n_subjects": 200,
    "world.n_objects": 8,
    "train.steps": 400,
    "train.lr": 6e-3,
    "train.weight_decay": 4.0,
    "train.n_evaluations": 12,
    "train.n_checkpoints": 1,
}
"""A smaller dish, learnt in a fifth of the time: for designs of many dials. Chance of a transfer is 1/8."""

SMALLEST: dict[str, Any] = {
    "world.n_subjects": 75,
    "model.d_mlp": 128,
    "train.batch_size": 128,
    "train.n_evaluations": 2,
}
"""What makes the smaller dish the smallest one: fewer subjects, neurons and examples in a step."""

HARDLY_EVER = 1e-6
"""Factor on a language's exposure that stands for none (0.03 of 25,600 examples): its facts still count as seen."""


def small(**changes: Any) -> Experiment:
    """The smaller dish with some settings changed."""
    return Experiment().replace(**{**SMALL, **changes})

"""Dishes drawn at random: in how many of them does a claim hold (notebook 14)."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import qmc

from unifylens.config import Experiment
from unifylens.corpus.exposure import parallel_window
from unifylens.designs.common import Design, seeds
from unifylens.environment import profile

N_DISHES = {"quick": 12, "full": 24}
DISHES_A_SEED = 3
"""At most, for each reported seed: `UNIFYLENS_SEEDS=2` asks for a short run, with fewer dishes."""
N_SEEDS = {"quick": 1, "full": 3}
"""In each condition of a dish. Dishes are what intervals are over; more seeds only make a dish's effects less noisy."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "world.n_relations": (4, 5, 6, 7, 8),
    "world.n_objects": (6, 8, 10, 12, 16),
    "language.n_languages": (2, 3, 4),
    "language.language_token": (False, True),
    "language.templates": (
        ("{subject} {relation} {object}",),
        ("{relation} {subject} {object}",),
        ("{subject} has {relation} {object}",),
        ("the {relation} of {subject} is {object}",),
    ),
    "model.n_layers": (1, 2, 3, 4),
    "model.d_model": (32, 48, 64),
    "model.n_heads": (1, 2, 4),
    "model.normalization": ("LN", "LNPre", "RMS", "RMSPre"),
    "model.positional_embedding_type": ("standard", "rotary"),
    "model.act_fn": ("gelu", "relu"),
    "train.schedule": ("cosine", "constant"),
}
"""Settings of which one value is drawn, all equally likely."""

RANGES: dict[str, tuple[float, float]] = {
    "facts": (400, 1200),
    "train.weight_decay": (0.3, 4.0),
    "train.lr": (2e-3, 8e-3),
}
"""Settings drawn evenly on a log scale; `facts` are those of the world, a whole number of subjects."""

FIXED: dict[str, Any] = {"train.batch_size": 160, "train.n_evaluations": 8, "train.n_checkpoints": 1}

STEPS = (300, 400, 600, 800, 1200)
"""Of a dish: the fewest at which, on a tuning seed, copies of every kind are recalled (`RECALLED`) at no, some and many
parallel facts; the most where none of them suffices."""

RECALLED = 0.98

DRAW = 20261127
"""Seed of the draw. Drawn once: no dish was put aside after its outcome was known."""


class Condition(NamedTuple):
    """What differs from the dish with 30 % parallel facts."""

    changes: dict[str, Any]
    seen: tuple[float, float] = (0.0, 1.0)
    """Part of training in which copies away from home are seen."""


CONDITIONS: dict[str, Condition] = {
    "no parallel facts": Condition({"corpus.parallel": 0.0}),
    "few parallel facts": Condition({"corpus.parallel": 0.1}),
    "as drawn": Condition({}),
    "many parallel facts": Condition({"corpus.parallel": 0.6}),
    "objects tied to languages": Condition({"corpus.object_skew": 1.0}),
    "exposure uneven": Condition({"corpus.exposure_balance": 0.2}),
    "subject words unshared": Condition({"language.shared_subjects": 0.5}),
    "early parallel facts": Condition({}, (0.0, 0.5)),
    "late parallel facts": Condition({}, (0.5, 1.0)),
}


def drawn() -> list[dict[str, Any]]:
    """Settings of all dishes, without their steps: a Latin hypercube, in which settings are nearly independent."""
    d, n = len(CHOICES) + len(RANGES), max(N_DISHES.values())
    points = qmc.LatinHypercube(d, optimization="random-cd", rng=np.random.default_rng(DRAW)).random(n)
    return [_settings(point) for point in points]


def _settings(point: np.ndarray) -> dict[str, Any]:
    values = iter(point)
    settings = {name: values_of[int(next(values) * len(values_of))] for name, values_of in CHOICES.items()}
    numbers = {name: low * (high / low) ** next(values) for name, (low, high) in RANGES.items()}
    settings["world.n_subjects"] = round(numbers.pop("facts") / settings["world.n_relations"])
    settings["model.d_mlp"] = 4 * settings["model.d_model"]
    return settings | {name: float(f"{value:.2g}") for name, value in numbers.items()} | FIXED


def across_dishes() -> Design:
    """Every condition in every dish; labels dish, condition, seed. Conditions of a seed share facts and first weights.

    Raises ValueError where a dish has no steps in `random_dishes.toml`.
    """
    return [
        ({"dish": dish, "condition": name, "seed": seed}, in_condition(experiment.replace(seed=seed), condition))
        for dish, experiment in enumerate(dishes())
        for name, condition in CONDITIONS.items()
        for seed in range(N_SEEDS[profile()])
    ]


def dishes() -> list[Experiment]:
    """The dishes of the profile (fewer for few `seeds`), with 30 % parallel facts and as many steps as each needs."""
    steps = tomllib.loads(resources.files("unifylens.designs").joinpath("random_dishes.toml").read_text())["steps"]
    found = drawn()[: min(N_DISHES[profile()], DISHES_A_SEED * len(seeds()))]
    if len(steps) < len(found):
        raise ValueError(f"random_dishes.toml has the steps of {len(steps)} dishes; needed: {len(found)}")
    return [with_steps(settings, n) for settings, n in zip(found, steps, strict=False)]


def with_steps(settings: dict[str, Any], steps: int) -> Experiment:
    """A dish that trains so long, a tenth of it warming up."""
    return Experiment().replace(**settings, **{"train.steps": steps, "train.warmup": steps // 10})


def in_condition(experiment: Experiment, condition: Condition) -> Experiment:
    """A dish in one condition."""
    changed = experiment.replace(**condition.changes)
    if condition.seen == (0.0, 1.0):
        return changed
    start, stop = (round(share * changed.train.steps) for share in condition.seen)
    return parallel_window(changed, start, stop)

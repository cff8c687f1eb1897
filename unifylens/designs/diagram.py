"""The boundary of transfer over informativeness, extractability and parallel facts; decay and rate (notebook 11)."""

from __future__ import annotations

from typing import Any

from unifylens.config import Experiment
from unifylens.designs.common import Design, few_seeds, seeds, small
from unifylens.environment import profile

DIAGRAM: dict[str, Any] = {
    "world.n_subjects": 120,
    "train.batch_size": 192,
    "train.n_evaluations": 2,
}
"""The small dish made smaller, for the hundreds of models of a diagram; its recall is still complete."""

DIAGRAM_PARALLEL = {
    "quick": (0.1, 0.2, 0.4, 0.8),
    "full": (0.05, 0.1, 0.14, 0.2, 0.28, 0.4, 0.57, 0.8),
}

DIAGRAM_SKEWS = {"quick": (0.0, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0)}

DIAGRAM_SHARED = {"quick": (1.0, 0.7), "full": (1.0, 0.925, 0.85, 0.775, 0.7)}

DIAGRAM_CORNERS = {"easy": (0.0, 1.0), "hard": (1.0, 0.7)}
"""Object skew and share of subject words that are shared, where both forces are weakest and strongest."""

DIAGRAM_VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "quick": {
        "d_model 48": {"model.d_model": 48, "model.d_mlp": 192},
        "3 languages": {"language.n_languages": 3},
        "480 facts": {"world.n_subjects": 60},
    },
    "full": {
        "d_model 32": {"model.d_model": 32, "model.d_mlp": 128},
        "d_model 48": {"model.d_model": 48, "model.d_mlp": 192},
        "d_model 96": {"model.d_model": 96, "model.d_mlp": 384},
        "1 layer": {"model.n_layers": 1},
        "3 layers": {"model.n_layers": 3},
        "weight decay 1": {"train.weight_decay": 1.0},
        "weight decay 2": {"train.weight_decay": 2.0},
        "weight decay 8": {"train.weight_decay": 8.0},
        "3 languages": {"language.n_languages": 3},
        "4 languages": {"language.n_languages": 4},
        "5 languages": {"language.n_languages": 5},
        "480 facts": {"world.n_subjects": 60},
        "1920 facts": {"world.n_subjects": 240},
    },
}
"""What the easy corner is varied in, one thing at a time."""


DECAYS = {"quick": (0.25, 1.0, 2.0, 4.0), "full": (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)}
RATES = {"quick": (3e-3, 6e-3), "full": (1.5e-3, 3e-3, 6e-3)}
"""Weight decays and learning rates of B7."""

DECAY_AND_RATE: dict[str, Any] = {"corpus.parallel": 0.3, "train.n_evaluations": 2, "train.n_checkpoints": 1}
"""What B7 changes in the default dish."""


def phase_diagram() -> Design:
    """Object skew by shared subject words by share of parallel facts; labels skew, shared, parallel, seed."""
    return [
        (
            {"skew": skew, "shared": shared, "parallel": parallel, "seed": seed},
            diagram_cell(skew, shared, parallel, seed),
        )
        for skew in DIAGRAM_SKEWS[profile()]
        for shared in DIAGRAM_SHARED[profile()]
        for parallel in DIAGRAM_PARALLEL[profile()]
        for seed in seeds()
    ]


def diagram_variants() -> Design:
    """The easy corner varied in one thing at a time, at every share of parallel facts; labels variant, parallel,
    seed."""
    skew, shared = DIAGRAM_CORNERS["easy"]
    return [
        (
            {"variant": variant, "parallel": parallel, "seed": seed},
            diagram_cell(skew, shared, parallel, seed).replace(**changes),
        )
        for variant, changes in {"as in the diagram": {}, **DIAGRAM_VARIANTS[profile()]}.items()
        for parallel in DIAGRAM_PARALLEL[profile()]
        for seed in few_seeds(2)
    ]


def diagram_cell(skew: float, shared: float, parallel: float, seed: int) -> Experiment:
    """One model of the phase diagram."""
    dials = {"corpus.object_skew": skew, "language.shared_subjects": shared, "corpus.parallel": parallel, "seed": seed}
    return small(**{**DIAGRAM, **dials})


def decay_and_rate() -> Design:
    """Weight decay by learning rate in the default dish; labels weight_decay, lr, seed.

    Models of a seed share their data and first weights.
    """
    base = Experiment().replace(**DECAY_AND_RATE)
    return [
        (
            {"weight_decay": decay, "lr": lr, "seed": seed},
            base.replace(**{"train.weight_decay": decay, "train.lr": lr, "seed": seed}),
        )
        for lr in RATES[profile()]
        for decay in DECAYS[profile()]
        for seed in seeds()
    ]

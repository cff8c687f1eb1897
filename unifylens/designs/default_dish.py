"""The default dish: shares of parallel facts, phases, mixed dials, models for patching (notebooks 01 to 06)."""

from __future__ import annotations

from typing import Any

from unifylens.config import Experiment
from unifylens.corpus.exposure import parallel_window
from unifylens.designs.common import Design, seeds, small
from unifylens.environment import profile

PARALLEL_LEVELS = {
    "quick": (0.0, 0.05, 0.1, 0.2, 0.3, 0.6),
    "full": (0.0, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6),
}

BOUNDARIES = {"quick": (1 / 3, 1 / 2, 2 / 3), "full": (1 / 3, 5 / 12, 1 / 2, 7 / 12, 2 / 3)}

SCHEDULES = {
    "cosine": {},
    "constant": {"train.schedule": "constant"},
    "matched": {"train.cycles": 2},
}
"""Learning rates of the critical-period experiment; `matched` gives both halves of training the same cosine."""

CRITICAL_PARALLEL = 0.4

PLASTIC_BOUNDARIES = (1 / 3, 1 / 2)

PLASTIC: dict[str, dict[str, Any]] = {
    "cosine": {},
    "linear": {"train.schedule": "linear"},
    "constant at half": {"train.schedule": "constant", "train.lr": 3e-3},
    "restart": {"train.cycles": 2},
    "no restart": {"train.cycles": 2, "train.schedule": "once"},
    "weight decay halved": {"train.weight_decay": 2.0},
    "weight decay quartered": {"train.weight_decay": 1.0},
}
"""What is left of training after a boundary: schedules of the smaller dish, and weight decays under its cosine.

With and without a restart the first half of training is the same: the cosine comes to its end there.
"""

MIXED_DIALS: dict[str, dict[str, Any]] = {
    "subject words 70 % shared": {"language.shared_subjects": 0.7},
    "subject words 30 % shared": {"language.shared_subjects": 0.3},
    "subject words not shared": {"language.shared_subjects": 0.0},
    "relation words half shared, language token": {
        "language.shared_relations": 0.5,
        "language.language_token": True,
        "corpus.parallel": 0.1,
    },
    "relation words shared, language token": {
        "language.shared_relations": 1.0,
        "language.language_token": True,
        "corpus.parallel": 0.1,
    },
    "object words half shared": {"language.shared_objects": 0.5, "corpus.parallel": 0.1},
    "exposure 70:30": {"corpus.exposure_balance": 0.6},
    "exposure 90:10": {"corpus.exposure_balance": 0.2},
    "objects tied to the language": {"corpus.object_skew": 1.0},
    "weight decay 0.1": {"train.weight_decay": 0.1},
    "weight decay 0.5": {"train.weight_decay": 0.5},
    "three languages": {"language.n_languages": 3, "corpus.parallel": 0.1},
}

ONE_RECIPE_PARALLEL = 0.2
"""Share of parallel facts at which models of one recipe differ in transfer by much."""

UNIFIED_AND_SEPARATE = {"unified": 0.6, "separate": 0.0}
"""Shares of parallel facts that give models of the two kinds for certain (notebook 01)."""

LATE_READING: dict[str, Any] = {
    "world.n_subjects": 300,
    "language.n_languages": 4,
    "language.templates": ("the {subject} has {relation} {object}",),
    "model.n_layers": 3,
    "model.local_blocks": 1,
    "train.steps": 1300,
}
"""A dish whose last position cannot read the subject in the first block, which sees one token back: until then all that
is known of the subject stands at two positions, its own and the next, mixed with words that tell the language."""

LATE_READING_POSITIONS = (2, 3)


FOUR_LAYERS: dict[str, Any] = {"model.n_layers": 4}

LANGUAGE_TOKEN: dict[str, Any] = {"language.language_token": True, "language.shared_relations": 1.0}
"""A token of its own in front of the prompt tells the language, and no other word of the prompt does."""


def unified_and_separate(**changes: Any) -> Design:
    """Models of both kinds for interventions, in the default dish with some settings changed."""
    base = Experiment().replace(**changes)
    return [
        ({"kind": kind, "seed": seed}, base.replace(**{"corpus.parallel": parallel, "seed": seed}))
        for kind, parallel in UNIFIED_AND_SEPARATE.items()
        for seed in seeds()
    ]


def parallel_levels() -> Design:
    """The default dish at rising shares of parallel facts."""
    base = Experiment()
    return [
        ({"parallel": level, "seed": seed}, base.replace(**{"corpus.parallel": level, "seed": seed}))
        for level in PARALLEL_LEVELS[profile()]
        for seed in seeds()
    ]


def critical_period() -> Design:
    """The same parallel copies always, before a boundary, after it, or never; equal total exposure of each copy.

    Boundaries are shares of training. The constant and the matched schedule are run at the middle boundary.
    """
    base = Experiment().replace(**{"corpus.parallel": CRITICAL_PARALLEL})
    design: Design = []
    for schedule, changes in SCHEDULES.items():
        for seed in seeds():
            always = base.replace(seed=seed, **changes)
            steps = always.train.steps
            conditions = {("always", None): always, ("never", None): always.replace(**{"corpus.parallel": 0.0})}
            for boundary in BOUNDARIES[profile()] if schedule == "cosine" else (1 / 2,):
                step = round(boundary * steps)
                conditions["early", boundary] = parallel_window(always, 0, step)
                conditions["late", boundary] = parallel_window(always, step, steps)
            for (condition, boundary), experiment in conditions.items():
                labels = {"schedule": schedule, "condition": condition, "boundary": boundary, "seed": seed}
                design.append((labels, experiment))
    return design


def plasticity() -> Design:
    """Parallel copies that come late in the smaller dish, by schedule, weight decay and boundary.

    Beside them, under some schedules, copies that come always or never.
    """
    base = small(**{"corpus.parallel": CRITICAL_PARALLEL})
    steps = base.train.steps
    design: Design = []
    for seed in seeds():
        for schedule, changes in PLASTIC.items():
            always = base.replace(seed=seed, **changes)
            cells: dict[tuple[str, float | None], Experiment] = {
                ("late", boundary): parallel_window(always, round(boundary * steps), steps)
                for boundary in PLASTIC_BOUNDARIES
            }
            if schedule == "cosine":
                cells["always", None] = always
            if schedule in ("restart", "no restart"):
                cells["never", None] = always.replace(**{"corpus.parallel": 0.0})
            for (condition, boundary), experiment in cells.items():
                labels = {"schedule": schedule, "condition": condition, "boundary": boundary, "seed": seed}
                design.append((labels, experiment))
    return design


def mixed_dials() -> Design:
    """One dial of data, words or optimisation at a time away from the default dish."""
    base = Experiment()
    return [
        ({"dial": name, "seed": seed}, base.replace(seed=seed, **changes))
        for name, changes in MIXED_DIALS.items()
        for seed in seeds()[: len(seeds()) // 2]
    ]


def one_recipe() -> Design:
    """Models of the smaller dish that differ in nothing but their seed, six for each reported seed."""
    return [
        ({"seed": seed}, small(**{"corpus.parallel": ONE_RECIPE_PARALLEL, "seed": seed}))
        for seed in range(6 * len(seeds()))
    ]


def many_models() -> dict[str, Design]:
    """The models of notebook 04, by family: they differ in data, its order, words and optimisation."""
    return {
        "share of parallel facts": parallel_levels(),
        "critical period": critical_period(),
        "mixed dials": mixed_dials(),
    }

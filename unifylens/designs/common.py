"""What all designs share: seeds, and the smaller dish for designs of many dials."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from unifylens.cards import several
from unifylens.config import Experiment, Intervention, RealConfig, Start
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


def described(design: Design) -> str:
    """What a design sets: how many models of which dish, and each setting that is changed in it, a line each.

    Named is the dish (default, smaller, smallest) in which the fewest settings are changed. Raises ValueError for a
    design without models.

    >>> design = [({}, ul.Experiment(seed=seed)) for seed in range(3)]
    >>> print(ul.designs.described(design))
    3 models of the default dish
      seed = 0 to 2
    """
    if not design:
        raise ValueError("design has no models; allowed: pairs of a dict and an experiment, one or more.")
    settings = [_flat(experiment) for _, experiment in design]
    real = all(experiment.real is not None for _, experiment in design)  # no facts are invented then

    def changed(dish: Experiment) -> list[str]:
        plain = {name: value for name, value in _flat(dish).items() if not (real and name.startswith("world."))}
        return [name for name, value in plain.items() if any(own[name] != value for own in settings)]

    dishes = {"default": Experiment(), "smaller": small(), "smallest": small(**SMALLEST)}
    changes = {name: changed(dish) for name, dish in dishes.items()}
    name = min(changes, key=lambda name: len(changes[name]))
    lines = [f"  {setting} = {several(_short(own[setting]) for own in settings)}" for setting in changes[name]]
    return "\n".join([f"{len(design)} {'model' if len(design) == 1 else 'models'} of the {name} dish", *lines])


def _short(value: Any) -> Any:
    """A setting as one word or number."""
    if isinstance(value, float):
        return float(f"{value:.3g}")
    if isinstance(value, tuple):
        return " and ".join(map(_part, value)) or "none"
    if isinstance(value, RealConfig):  # its sources are versions of packages, which no design sets
        own = {name: setting for name, setting in RealConfig() if name != "sources"}
        return " and ".join(f"{name}={_short(got)}" for name, got in value if own.get(name, got) != got) or "countries"
    return "a finished model" if isinstance(value, Start) else value


def _part(one: Any) -> str:
    """One of several things that a setting holds: of a change the step, of an intervention its name and its rows."""
    if isinstance(one, Intervention):
        return f"{one.name} ({len(one.rows)} rows)" if getattr(one, "rows", None) else one.name
    return f"at step {one.step}" if hasattr(one, "step") else repr(one)


def _flat(experiment: Experiment) -> dict[str, Any]:
    """All settings by the names that `replace` takes."""
    names = [name for name in Experiment.field_names() if name not in Experiment.parts()]
    return {name: attrgetter(name)(experiment) for name in names}

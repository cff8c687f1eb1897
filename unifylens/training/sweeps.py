"""Many experiments, trained together and looked at together.

Which of them share a stack stands in `plan`, where stacks train in `workers`, how they are sent, shown and saved in
`schedule`.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, SupportsIndex, overload

import pandas as pd

from unifylens import cards, tables
from unifylens.arguments import plain
from unifylens.cards import Card
from unifylens.config import Experiment
from unifylens.errors import suggest
from unifylens.training import store
from unifylens.training.cost import Member
from unifylens.training.plan import plan_stacks
from unifylens.training.run import Run
from unifylens.training.schedule import refuse_a_full_disk, train_stacks
from unifylens.training.sparse import first_run
from unifylens.training.workers import Workers


def train(experiment: Experiment, *, progress: bool = True) -> Run:
    """Train one model, or read it from the store. Raises what `train_many` raises.

    >>> run = ul.train(exp, progress=False)
    >>> run.history[["step", "loss", "recall", "transfer"]].shape
    (4, 4)
    """
    _check_experiment(experiment, "experiment")
    return train_many([experiment], progress=progress)[0]


def sweep(
    experiment: Experiment,
    over: Mapping[str, Iterable[Any]],
    *,
    stack_size: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Train every combination of some settings: `over={"corpus.parallel": [0, 0.3], "seed": range(5)}`.

    Raises ValueError for a name that is not a setting, a value that is not allowed or stands there twice, or no values;
    and what `train_many` raises.

    >>> runs = ul.sweep(exp, over={"corpus.parallel": [0, 0.5], "seed": range(2)}, progress=False)
    >>> runs.final.groupby("corpus.parallel")["transfer"].size().to_dict()
    {0.0: 2, 0.5: 2}
    """
    _check_experiment(experiment, "experiment")
    if not isinstance(over, Mapping):
        raise TypeError(f"over is a {type(over).__name__}; allowed: a dict of values by setting.")
    for name, options in over.items():
        if isinstance(options, str) or not isinstance(options, Iterable):
            raise ValueError(f"over[{name!r}]={options!r} is one value; allowed: a list or a range of values.")
    values = {name: plain(list(vs)) for name, vs in over.items()}
    for name, options in values.items():
        if not options:
            raise ValueError(f"over[{name!r}] is empty; allowed: at least one value.")
    dials = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    design = [(dial, experiment.replace(**dial)) for dial in dials]
    first: dict[Experiment, dict[str, Any]] = {}
    for dial, each in design:
        if (other := first.setdefault(each, dial)) is not dial:
            twice = {name: value for name, value in dial.items() if values[name].count(value) > 1} or other
            raise ValueError(f"over gives {cards.settings(twice)} twice; allowed: different values.")
    return train_design(design, stack_size=stack_size, progress=progress)


def train_design(
    design: Sequence[tuple[dict[str, Any], Experiment]], *, stack_size: int | None = None, progress: bool = True
) -> Sweep:
    """Train labelled experiments that are no grid: `[({"condition": "early"}, experiment), ...]`.

    Raises TypeError for other entries, and what `train_many` raises.
    """
    design = list(design)
    for i, entry in enumerate(design):
        if not isinstance(entry, Sequence) or len(entry) != 2 or not isinstance(entry[0], Mapping):
            raise TypeError(f"design[{i}] is a {type(entry).__name__}; allowed: a pair of a dict and an experiment.")
        _check_experiment(entry[1], f"design[{i}][1]")
    runs = train_many([e for _, e in design], stack_size=stack_size, progress=progress)
    return Sweep(runs, [labels for labels, _ in design])


class Sweep(Card, Sequence[Run]):
    """Runs in order, and the settings in which they differ."""

    def __init__(self, runs: Sequence[Run], dials: Sequence[Mapping[str, Any]]) -> None:
        """`dials[i]` are the settings of `runs[i]`."""
        self.runs = list(runs)
        self.dials = [{name: plain(value) for name, value in dial.items()} for dial in dials]

    def _card(self) -> tuple[str, dict[str, str]]:
        lines = {name: cards.several(d[name] for d in self.dials if name in d) for name in self._names()}
        ends = pd.DataFrame([run.ending() for run in self.runs])
        for name in ("recall", "transfer"):
            if name in ends:
                lines[f"mean {name}"] = f"{ends[name].mean():.2f}"
        if "diverged_at" in ends and ends["diverged_at"].notna().any():
            lines["diverged"] = f"{ends['diverged_at'].notna().sum()} of {len(self)}"
        return f"Sweep of {len(self)} {'run' if len(self) == 1 else 'runs'}", lines

    def _names(self) -> list[str]:
        """Settings in which runs differ."""
        return list(dict.fromkeys(name for dial in self.dials for name in dial))

    @overload
    def __getitem__(self, index: SupportsIndex) -> Run: ...

    @overload
    def __getitem__(self, index: slice) -> Sweep: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Run | Sweep:
        """One run by number, or some as a sweep by a slice. Raises TypeError for anything else, IndexError beyond."""
        if isinstance(index, slice):
            return Sweep(self.runs[index], self.dials[index])
        if isinstance(index, bool) or not hasattr(index, "__index__"):
            raise TypeError(
                f"runs[{index!r}]: allowed are a number or a slice, or `runs.select(...)` by settings, which are "
                f"{', '.join(self._names()) or 'none here'}."
            )
        number = operator.index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"runs[{number}]: there are {len(self)}.")
        return self.runs[number]

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.runs)

    def select(self, **labels: Any) -> Sweep:
        """The runs whose settings have these values: `runs.select(parallel=0.3)`, or `**{"corpus.parallel": 0.3}`.

        Numbers may differ by rounding where none is equal (0.3 finds 0.1 + 0.2). Raises ValueError for a name that is
        no setting of the sweep, or if no run has the values.
        """
        chosen = list(range(len(self)))
        for label, value in labels.items():
            name, value = self._name(label), plain(value)
            has = [i for i in chosen if name in self.dials[i]]
            equal = [i for i in has if self.dials[i][name] == value]
            chosen = equal or [i for i in has if _close(self.dials[i][name], value)]
            if not chosen:
                known = cards.several(d[name] for d in self.dials if name in d)
                others = " together with the other settings" * (len(labels) > 1)
                raise ValueError(f"no run has {name}={value!r}{others}; its values: {known}.")
        return Sweep([self.runs[i] for i in chosen], [self.dials[i] for i in chosen])

    def _name(self, label: str) -> str:
        """The setting that a label means, which may be the last part of its name."""
        names = self._names()
        meant = [label] if label in names else [name for name in names if name.rpartition(".")[2] == label]
        if len(meant) != 1:
            text = f"means {' or '.join(meant)}" if meant else "is no setting of this sweep"
            raise ValueError(f"{label!r} {text}.{suggest(label, names)}")
        return meant[0]

    @property
    def history(self) -> pd.DataFrame:
        """All histories, the settings in front. Raises ValueError if there is no run."""
        self._refuse_none()
        parts = zip(self.runs, self.dials, strict=True)
        histories = [
            tables.repeated(dial, len(run.history)).join(run.history) if dial else run.history for run, dial in parts
        ]
        return pd.concat(histories, ignore_index=True)

    def measure(self, table: Callable[[Run], Any], *, progress: bool = True) -> pd.DataFrame:
        """What `table` makes of every run, stacked, the settings beside it: `runs.measure(ul.transfer)`.

        It may give a table; a column of one (a Series with a name); a row (a dict, a Series without a name); or a
        number, which stands in a column named after the function, `value` for a lambda.
        Raises TypeError where it gives anything else, ValueError if there is no run.
        """
        self._refuse_none()
        labelled = zip(self.dials, self.runs, strict=True)
        return tables.measured(table, labelled, total=len(self), progress=progress)

    @property
    def final(self) -> pd.DataFrame:
        """Last evaluation of every run (on all facts) and the step at which it diverged, the settings beside it.

        Raises ValueError if there is no run.
        """
        self._refuse_none()
        rows = zip(self.runs, self.dials, strict=True)
        if clashes := [name for name in self._names() if name in self.runs[0].final or name == "diverged_at"]:
            raise ValueError(f"the setting {clashes[0]!r} has the name of a measurement; label the runs otherwise.")
        table = pd.DataFrame([{**run.final, "diverged_at": run.diverged_at, **dial} for run, dial in rows])
        return table.astype({"diverged_at": "Int64"})

    def _refuse_none(self) -> None:
        if not self.runs:
            raise ValueError("the sweep has no runs; allowed: at least one.")


def _close(one: Any, other: Any) -> bool:
    """Whether two numbers are the same but for rounding, float32's included."""
    both = isinstance(one, Real) and isinstance(other, Real)
    return both and math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9)


def _check_experiment(given: Any, name: str) -> None:
    if isinstance(given, Experiment):
        return
    hint = ""
    if isinstance(given, Run):
        hint = "; a run is trained already, and its settings are `run.experiment`"
    elif isinstance(given, Iterable):
        hint = "; several train with `ul.train_many` or `ul.sweep`"
    raise TypeError(f"{name} is a {type(given).__name__}; allowed: an Experiment{hint}.")


def train_many(experiments: Sequence[Experiment], *, stack_size: int | None = None, progress: bool = True) -> list[Run]:
    """Train experiments, those of one shape together, and return their runs in order.

    Runs in the store are read. Stacks of `stack_size` models (None: what suits the machine) train on the workers of
    the active `joblib.parallel_config`, or one on each CPU core. An interruption keeps what is finished, and a stack
    under way goes on where it was.

    Raises TypeError for what is no experiment, ValueError for a `stack_size` that is no size or does not fit into
    memory, MemoryError if not even one model fits, OSError if the disk is too small or cannot be read or written,
    RuntimeError if worker processes die again and again, KeyboardInterrupt when interrupted.
    """
    if stack_size is not None and (not isinstance(stack_size, int) or isinstance(stack_size, bool) or stack_size < 1):
        raise ValueError(f"stack_size={stack_size!r}; allowed: a whole number from 1 on, or None to choose.")
    if isinstance(experiments, (Experiment, Run)):
        raise TypeError(
            f"experiments is one {type(experiments).__name__}; allowed: a list (one trains with `ul.train`)."
        )
    experiments = list(experiments)
    for i, experiment in enumerate(experiments):
        _check_experiment(experiment, f"experiments[{i}]")
    runs: dict[Experiment, Run | None] = {experiment: store.load(experiment) for experiment in experiments}
    missing = [Member.of(experiment) for experiment, run in runs.items() if run is None]
    earlier = dict.fromkeys(each for member in missing for each in _trained_before(member.experiment))
    if earlier:
        trained = zip(earlier, train_many(list(earlier), stack_size=stack_size, progress=progress), strict=True)
        runs |= {experiment: run for experiment, run in trained if experiment in runs}
        missing = [member for member in missing if runs[member.experiment] is None]
    if missing:
        store.refuse_unwritable()
        workers = Workers.active()
        stacks, workers = plan_stacks(missing, workers, stack_size)
        refuse_a_full_disk(stacks, workers)
        for run in train_stacks(stacks, workers, progress):
            runs[run.experiment] = run
    store.forget_finished_stacks()
    return [runs[experiment] for experiment in experiments]


def _trained_before(experiment: Experiment) -> list[Experiment]:
    """What an experiment's weights begin with, and what tells which of them may move."""
    start = [] if experiment.start is None else [experiment.start.experiment]
    return start if experiment.train.sparse is None else [*start, first_run(experiment)]

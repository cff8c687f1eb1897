"""Many experiments: how they are grouped into stacks, scheduled over workers, shown and saved.

It knows nothing of how a step is computed: a stack is trained by `train.train_stack`, here, in another process, or
on another machine.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from unifylens.config import Experiment
from unifylens.training import store
from unifylens.training.cost import Member
from unifylens.training.plan import plan_stacks
from unifylens.training.schedule import refuse_a_full_disk, train_stacks
from unifylens.training.store import Run
from unifylens.training.workers import Workers


def train(experiment: Experiment, *, progress: bool = True) -> Run:
    """Train one model, or read it from the store. Raises what `train_many` raises.

    >>> run = ul.train(exp, progress=False)
    >>> run.history[["step", "loss", "recall", "transfer"]].shape
    (4, 4)
    """
    return train_many([experiment], progress=progress)[0]


def sweep(
    experiment: Experiment,
    over: Mapping[str, Iterable[Any]],
    *,
    stack_size: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Train every combination of some settings: `over={"corpus.parallel": [0, 0.3], "seed": range(5)}`.

    Raises ValueError for a name that is not a setting, a value that is not allowed, or no values; and what
    `train_many` raises.

    >>> runs = ul.sweep(exp, over={"corpus.parallel": [0, 0.5], "seed": range(2)}, progress=False)
    >>> runs.final.groupby("corpus.parallel")["transfer"].size().to_dict()
    {0.0: 2, 0.5: 2}
    """
    for name, options in over.items():
        if isinstance(options, str) or not isinstance(options, Iterable):
            raise ValueError(f"over[{name!r}]={options!r} is one value; allowed: a list or a range of values.")
    values = {name: list(vs) for name, vs in over.items()}
    for name, options in values.items():
        if not options:
            raise ValueError(f"over[{name!r}] is empty; allowed: at least one value.")
    dials = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    design = [(dial, experiment.replace(**dial)) for dial in dials]
    return train_design(design, stack_size=stack_size, progress=progress)


def train_design(
    design: Sequence[tuple[dict[str, Any], Experiment]], *, stack_size: int | None = None, progress: bool = True
) -> Sweep:
    """Train labelled experiments that are no grid: `[({"condition": "early"}, experiment), ...]`.

    Raises what `train_many` raises.
    """
    runs = train_many([e for _, e in design], stack_size=stack_size, progress=progress)
    return Sweep(runs, [labels for labels, _ in design])


_NOTHING = object()


class Sweep(Sequence[Run]):
    """Runs in order, and the settings in which they differ."""

    def __init__(self, runs: list[Run], dials: list[dict[str, Any]]) -> None:
        """`dials[i]` are the settings of `runs[i]`."""
        self.runs = runs
        self.dials = dials

    def __getitem__(self, index):
        """One run by number."""
        return self.runs[index]

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.runs)

    def select(self, **labels: Any) -> Sweep:
        """The runs whose settings have these values. Raises ValueError if there is none."""
        chosen = [i for i, dial in enumerate(self.dials) if all(dial.get(k, _NOTHING) == v for k, v in labels.items())]
        if not chosen:
            raise ValueError(f"no run has {labels}; settings of the first run: {self.dials[0]}.")
        return Sweep([self.runs[i] for i in chosen], [self.dials[i] for i in chosen])

    @property
    def history(self) -> pd.DataFrame:
        """All histories, the settings in front."""
        return pd.concat(
            [
                pd.DataFrame({name: [value] * len(run.history) for name, value in dial.items()}).join(run.history)
                if dial
                else run.history
                for run, dial in zip(self.runs, self.dials, strict=True)
            ],
            ignore_index=True,
        )

    def measure(self, table: Callable[[Run], pd.DataFrame], *, progress: bool = True) -> pd.DataFrame:
        """What `table` makes of every run, stacked, the settings beside it: `runs.measure(lambda run: ...)`."""
        parts = zip(tqdm(self.runs, desc="measuring", unit="model", disable=not progress), self.dials, strict=True)
        return pd.concat([table(run).reset_index().assign(**dial) for run, dial in parts], ignore_index=True)

    @property
    def final(self) -> pd.DataFrame:
        """Last evaluation of every run (on all facts) and the step at which it diverged, the settings beside it."""
        rows = zip(self.runs, self.dials, strict=True)
        table = pd.DataFrame([{**run.final, "diverged_at": run.diverged_at, **dial} for run, dial in rows])
        return table.astype({"diverged_at": "Int64"})


def train_many(experiments: Sequence[Experiment], *, stack_size: int | None = None, progress: bool = True) -> list[Run]:
    """Train experiments, those of one shape together, and return their runs in order.

    Runs in the store are read. Stacks of `stack_size` models (None: what suits the machine) train on the workers of
    the active `joblib.parallel_config`, or one on each CPU core. An interruption keeps what is finished, and a stack
    under way goes on where it was.

    Raises ValueError for a `stack_size` that is no size or does not fit into memory, MemoryError if not even one
    model fits, OSError if the disk is too small or cannot be written, KeyboardInterrupt when interrupted.
    """
    if stack_size is not None and (not isinstance(stack_size, int) or isinstance(stack_size, bool) or stack_size < 1):
        raise ValueError(f"stack_size={stack_size!r}; allowed: a whole number from 1 on, or None to choose.")
    runs: dict[Experiment, Run | None] = {experiment: store.load(experiment) for experiment in experiments}
    missing = [Member.of(experiment) for experiment, run in runs.items() if run is None]
    if missing:
        workers = Workers.active()
        stacks, workers = plan_stacks(missing, workers, stack_size)
        refuse_a_full_disk(stacks, workers)
        for run in train_stacks(stacks, workers, progress):
            runs[run.experiment] = run
    return [runs[experiment] for experiment in experiments]


# --- where they train ----------------------------------------------------------------------------------------

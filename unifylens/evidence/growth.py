"""What becomes of languages when a new one comes: transfer, forgetting, and how soon (B8).

Tables of answers are those of `evaluate.by_language`, stacked over runs and labelled (`Sweep.measure`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from unifylens.crosslingual.evaluate import by_language
from unifylens.training.run import Run

HELD_OUT = "held-out"


def course(run: Run) -> pd.DataFrame:
    """`evaluate.by_language` after every step whose weights are kept; index with `step` in front."""
    return pd.concat({step: by_language(run.checkpoint(step), run.corpus) for step in run.steps}, names=["step"])


def summary(answers: pd.DataFrame, labels: Sequence[str], new: str | None = "c") -> pd.DataFrame:
    """One row for each run: shares of right answers, every question counting alike; indexed by `labels`.

    `forward`: transfer into the new language, of all facts that it was not told, and by their home (`forward from a`);
    each also of parallel facts alone (`forward, parallel`: both old languages were told them) and of those told in one
    (`forward, monolingual`), with nan where there are none. `learnt`: recall of what it was told. `recall`,
    `transfer`: of and between the old languages. With `new=None`, of models to which none has come, these two alone.
    Raises ValueError where the new language is not asked.
    """
    if new is not None and new not in set(answers["asked"]):
        raise ValueError(f"new={new!r} is not asked in answers; allowed: {', '.join(sorted(set(answers['asked'])))}")
    there, held_out = answers["asked"] == new, answers["kind"] == HELD_OUT
    parts = {"recall": ~there & ~held_out, "transfer": ~there & held_out}
    if new is not None:
        untold, parallel = there & held_out, answers["copies"] > 1
        homes = {f"forward from {home}": answers["home"] == home for home in sorted(set(answers["home"]))}
        parts |= {"forward": untold, "learnt": there & ~held_out}
        parts |= {name: untold & home for name, home in homes.items()}
        for name in ("forward", *homes):
            parts |= {f"{name}, parallel": parts[name] & parallel, f"{name}, monolingual": parts[name] & ~parallel}
    weighed = answers.assign(right=answers["n"] * answers["right"])
    sums = {name: weighed[rows].groupby([*labels], sort=False)[["n", "right"]].sum() for name, rows in parts.items()}
    runs = weighed.groupby([*labels], sort=False).size().index  # in their order, also those that a part has not
    return pd.DataFrame({name: total["right"] / total["n"] for name, total in sums.items()}, index=runs)


def changed(after: pd.DataFrame, before: pd.DataFrame) -> pd.DataFrame:
    """`after` (a `summary`) with `forgetting` and `backward`, against the same models before the language came.

    `forgetting` is by how much recall in the old languages fell, `backward` by how much transfer between them rose.
    `before` is a `summary` whose labels are some of those of `after`. Raises KeyError where a model is not in it.
    """
    of = after.index.droplevel([name for name in after.index.names if name not in before.index.names])
    was = before.loc[of.reorder_levels(before.index.names) if before.index.nlevels > 1 else of]
    return after.assign(
        forgetting=was["recall"].to_numpy() - after["recall"], backward=after["transfer"] - was["transfer"].to_numpy()
    )


def steps_until(courses: pd.DataFrame, column: str, level: float) -> pd.DataFrame:
    """First step at which a column reaches a level, for each run of a `summary` with `step` among its labels.

    Columns `step`, and `reached`: whether it ever does; where not, `step` is the last one (censored).
    """
    rest = [name for name in courses.index.names if name != "step"]
    records = {}
    for labels, rows in courses.groupby(rest, sort=False):
        values = rows[column].droplevel(rest).sort_index()
        there = values.index[values >= level]
        records[labels] = {"step": int(there[0] if len(there) else values.index[-1]), "reached": bool(len(there))}
    return pd.DataFrame(records.values(), index=pd.MultiIndex.from_tuples(records, names=rest))


def doublings(first: pd.DataFrame, than: str, less: str) -> Float[np.ndarray, " seed"]:
    """How often the steps of models `less` must be doubled to be those of `than`, seed by seed.

    `first` is a `steps_until` with labels `model` and `seed` and no others that differ; who is censored counts with the
    last step, which makes the number smaller if it is of `than`. Raises KeyError for a model that is not there.
    """
    steps = first["step"].groupby(["model", "seed"]).mean().unstack("seed")
    return np.log2(steps.loc[than].to_numpy() / steps.loc[less].to_numpy())


def difference(
    table: pd.DataFrame, column: str, label: str, more: object, less: object, over: Sequence[str] = ()
) -> Float[np.ndarray, " seed"]:
    """A column where `label` is `more` minus where it is `less`, seed by seed: the least over the labels `over`.

    Rows of one seed that differ in further labels are averaged. Raises KeyError where one of the two is missing.
    """
    wide = table[column].groupby([label, *over, "seed"]).mean()
    apart = (wide.xs(more, level=label) - wide.xs(less, level=label)).groupby("seed").min()
    return apart.sort_index().to_numpy()

"""When things happen: phase boundaries, in optimiser steps, of any curve over training.

Steps are non-negative and increase; a boundary that is never reached is nan, never a guess.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from ruptures import Dynp
from ruptures.costs import CostCLinear
from scipy import optimize, stats
from scipy.special import expit

from unifylens.measures.association import rank_correlation
from unifylens.measures.intervals import mean_interval

__all__ = [
    "Phases",
    "change_points",
    "detect",
    "first_step",
    "half_transfer",
    "learnt",
    "order_kept",
    "rise",
    "sharpness",
    "summarise",
    "when_reached",
    "within_seeds",
]

RECALL_COMPLETE = 0.98
"""Recall of the training facts, 0 to 1, from which they count as learnt."""
NEAR_BASELINE = 1.02
"""The loss has come down to the no-knowledge baseline when it is below this multiple of it."""

ABOVE_NOISE = 6.5
"""A rise is this many standard deviations of the noise; the highest of chance stay below in 98 % of curves."""

# Points of the uniform grid that the dynamic program searches; its time grows with the square (100: 0.03 s).
_GRID = 100
_SCALES = ("log", "linear")


@dataclass(frozen=True)
class Phases:
    """Boundaries of training in optimiser steps; nan where training ended before one was reached."""

    baseline_reached: float
    """The loss is down to the no-knowledge baseline, `H(object | relation, language)`."""
    unification_start: float
    """The unification score begins to rise."""
    unification_end: float
    """The unification score has risen."""
    recall_complete: float
    """The training facts are known."""


def change_points(
    steps: Float[ndarray, " n"], values: Float[ndarray, " n"], n_changes: int = 2, scale: str = "log"
) -> list[float]:
    """The `n_changes` steps at which a continuous, piecewise linear curve that fits `values` best bends.

    An exact search (ruptures' `Dynp` with `CostCLinear`) on the curve resampled to 100 points, evenly spaced
    in `log(step + 1)` (`scale="log"`, which suits curves that rise within the first part of training and
    evaluations that grow rarer) or in steps (`"linear"`). A result is no finer than that grid, and it is
    found in a flat curve too: `rise` is the function that may say that nothing happened.

    Raises ValueError for an unknown scale, fewer than `n_changes + 2` points, steps that are negative or do
    not increase, or values that are not finite.
    """
    steps, values = _curve(steps, values)
    if scale not in _SCALES:
        raise ValueError(f"scale is {scale!r}; it must be one of {_SCALES}")
    if n_changes < 1 or len(steps) < n_changes + 2:
        raise ValueError(f"n_changes is {n_changes}; {len(steps)} points allow 1..{len(steps) - 2}")
    grid, resampled = _resample(steps, values, scale)
    search = Dynp(custom_cost=CostCLinear(), min_size=3, jump=1)
    ends = search.fit_predict(resampled, n_changes)
    # A segment ends before index `end`, so the bend that it shares with the next one is the point before.
    bends = grid[[end - 1 for end in ends[:-1]]]
    return [float(bend) for bend in (np.expm1(bends) if scale == "log" else bends)]


def rise(
    steps: Float[ndarray, " n"], values: Float[ndarray, " n"], minimum: float = 0.1, scale: str = "log"
) -> tuple[float, float]:
    """Steps at which a curve begins and ends to rise; (nan, nan) where it rises by less than `minimum`, or than noise.

    The bends are those of `change_points`; the rise is the stretch between them that climbs, however many of its
    parts do. Its height is that of the curve with the same bends that fits all values best (least squares), in the
    unit of `values`, so that one noisy point is no rise. It must also be `ABOVE_NOISE` standard deviations of the
    noise, which is told from how neighbouring evaluations scatter about a line: noise of any size is taken for a rise
    in at most 2 % of curves of 8 evaluations or more (of fewer, only a slow rise can be told from noise). A fall before
    the rise is left out, as it would use up a bend: the curve is taken from where it climbs most.

    Where the curve still rises at its last step, the end is nan. Raises ValueError as `change_points` does.
    """
    steps, values = _curve(steps, values)
    climbs = values - np.minimum.accumulate(values)
    lowest = int(values[: int(climbs.argmax()) + 1].argmin())
    needed = max(minimum, ABOVE_NOISE * _noise(values))
    if len(steps) >= 4 and climbs.max() < needed:  # most curves without a rise, and no search for one
        return float("nan"), float("nan")
    if len(steps) - lowest >= 4:  # fewer points have no two bends
        steps, values = steps[lowest:], values[lowest:]
    bends = change_points(steps, values, n_changes=2, scale=scale)
    times, resampled = _resample(*_curve(steps, values), scale)
    knots = np.array([times[0], *_times(np.array(bends), scale), times[-1]])
    # Columns are hat functions: one at their own knot, zero at the others, linear between. The fit is to the
    # grid and not to the evaluations, of which there may be none between two bends.
    hats = np.stack([np.interp(times, knots, hat) for hat in np.eye(len(knots))], axis=1)
    heights = np.linalg.lstsq(hats, resampled)[0]
    gains = np.diff(heights)
    rising = np.flatnonzero(gains >= max(gains.clip(min=0).sum() / 4, 1e-12))  # not the drift of a plateau
    if not len(rising) or heights[rising[-1] + 1] - heights[rising[0]] < needed:
        return float("nan"), float("nan")
    bounds = [float(steps[0]), *bends, float("nan")]  # what ends with training was cut off by it
    return bounds[rising[0]], bounds[rising[-1] + 1]


def _noise(values: Float[ndarray, " n"]) -> float:
    """Standard deviation of independent noise in a curve that is straight between most of its neighbouring points.

    From second differences, which are of variance 6; their median, so that a jump or a bend does not count.
    """
    return float(np.median(np.abs(np.diff(values, 2))) / (stats.norm.ppf(0.75) * 6**0.5)) if len(values) > 2 else 0.0


def first_step(
    steps: Float[ndarray, " n"], values: Float[ndarray, " n"], threshold: float, direction: str = "below"
) -> float:
    """First step at which a curve is at or beyond a threshold, linear between points; nan if it never is.

    Raises ValueError for a direction that is not "below" or "above", steps that are negative or do not
    increase, or values that are not finite.
    """
    if direction not in ("below", "above"):
        raise ValueError(f"direction is {direction!r}; it must be 'below' or 'above'")
    steps, values = _curve(steps, values)
    past = values <= threshold if direction == "below" else values >= threshold
    if not past.any():
        return float("nan")
    i = int(past.argmax())
    if i == 0:
        return float(steps[0])
    share = (threshold - values[i - 1]) / (values[i] - values[i - 1])
    return float(steps[i - 1] + share * (steps[i] - steps[i - 1]))


def half_transfer(
    parallel: Float[ndarray, " n"], transfer: Float[ndarray, " n"], level: float = 0.5
) -> tuple[float, str]:
    """Parallel share at which transfer first reaches `level`, linear in log2 of the share, and what is known of it.

    The second is "reached"; or "above", where even the largest share falls short, and "below", where the smallest one
    is past it already: the share returned is then that largest or smallest one, and the true value lies beyond.

    Raises ValueError for shares that are not positive or do not increase, or values that are not finite.
    """
    parallel = np.asarray(parallel, dtype=np.float64)
    if not (parallel > 0).all():
        raise ValueError(f"parallel is {parallel}; shares must be above 0")
    doublings = first_step(np.log2(parallel / parallel[0]), transfer, level, "above")
    if np.isnan(doublings):
        return float(parallel[-1]), "above"
    return float(parallel[0] * 2**doublings), "reached" if transfer[0] < level else "below"


def sharpness(parallel: Float[ndarray, " n"], transfer: Float[ndarray, " n"], chance: float) -> float:
    """Width of a boundary: doublings of the share of parallel facts from a quarter to three quarters of the way up.

    From the logistic curve in log2 of the share, between `chance` and 1, that fits best (least squares); small is
    sharp. All points may come from several seeds. Raises ValueError for shares that are not positive.
    """
    parallel = np.asarray(parallel, dtype=np.float64)
    if not (parallel > 0).all():
        raise ValueError(f"parallel is {parallel}; shares must be above 0")
    x = np.log2(parallel)

    def rest(where: Float[ndarray, " 2"]) -> Float[ndarray, " n"]:
        middle, log_scale = where
        return chance + (1 - chance) * expit((x - middle) / np.exp(log_scale)) - transfer

    bounds = ([x.min() - 3, np.log(0.02)], [x.max() + 3, np.log(20.0)])
    fit = optimize.least_squares(rest, x0=[x.mean(), 0.0], bounds=bounds)
    return float(2 * np.log(3) * np.exp(fit.x[1]))


def when_reached(history: pd.DataFrame, column: str, by: str, level: float) -> float:
    """Value of one column of a history at the first step at which column `by` is at or above `level`; nan if never.

    Both are linear between evaluations, those with empty cells left out: so runs that learn at different speeds are
    compared when they know equally much. Raises KeyError for missing columns.
    """
    if missing := [name for name in ("step", column, by) if name not in history.columns]:
        raise KeyError(f"history has no column {missing}; it has {list(history.columns)}")
    told = history[["step", column, by]].dropna()
    if told.empty:
        return float("nan")
    step = first_step(told["step"].to_numpy(), told[by].to_numpy(), level, "above")
    return float(np.interp(step, told["step"], told[column]))


def learnt(table: pd.DataFrame, by: str, recalls: Sequence[str], least: float) -> list:
    """Levels of column `by` at which every recall is at least `least` in the mean over rows, in the table's order.

    What was never learnt cannot transfer: only such levels may be compared. A kind of copy that a level has not got
    (empty cells) asks nothing of it. Raises KeyError for missing columns.
    """
    if missing := [name for name in (by, *recalls) if name not in table.columns]:
        raise KeyError(f"table has no column {missing}; it has {list(table.columns)}")
    means = table.groupby(by, sort=False)[list(recalls)].mean()
    return means.index[((means >= least) | means.isna()).all(axis=1)].tolist()


def order_kept(history: pd.DataFrame, step: float, by: str = "parallel", column: str = "unification") -> pd.Series:
    """Rank correlation, for each seed, of a column at the last evaluation up to `step` with the column at the end.

    It is over the settings in `by`, from a history of several models with columns `seed` and `step`. Raises ValueError
    if there is no evaluation up to `step`.
    """
    if not (history["step"] <= step).any():
        raise ValueError(f"step={step} is before the first evaluation; allowed: {history['step'].min()} or more.")
    seen = history.loc[history["step"] <= step, "step"].max()
    kept = {}
    for seed, group in history.groupby("seed"):
        table = group.pivot(index="step", columns=by, values=column)
        kept[seed] = rank_correlation(table.loc[seen].to_numpy(), table.iloc[-1].to_numpy())
    return pd.Series(kept, name="rank correlation")


def within_seeds(table: pd.DataFrame, predictor: str, outcome: str) -> pd.Series:
    """Rank correlation, for each seed, of two columns over the rows of that seed.

    Raises ValueError for a seed with fewer than 5 rows.

    >>> table = pd.DataFrame({"seed": 5 * [0] + 5 * [1], "rate": 2 * [1, 2, 3, 4, 5], "transfer": 2 * [2, 4, 5, 7, 9]})
    >>> ul.phases.within_seeds(table, "rate", "transfer").round(2).tolist()
    [1.0, 1.0]
    """
    fewest = table.groupby("seed").size().min()
    if fewest < 5:
        raise ValueError(f"a seed has {fewest} rows; allowed: 5 or more for a rank correlation.")
    rows = table.groupby("seed")[[predictor, outcome]]
    return rows.apply(lambda of: rank_correlation(of[predictor].to_numpy(), of[outcome].to_numpy()))


def detect(history: pd.DataFrame, baseline: float, column: str = "unification") -> Phases:
    """Phase boundaries of one training history, in steps.

    `history` has a row an evaluation and columns `step`, `loss` (nats), `recall` (0 to 1) and the one named
    by `column`, whose rise counts if it is 0.1 or more; empty cells are left out, column by column.
    `baseline` is the no-knowledge loss in nats. A rise needs 4 evaluations; with fewer its two boundaries are
    nan.

    Raises KeyError for missing columns, ValueError for a baseline that is not positive and finite.
    """
    needed = ["step", "loss", "recall", column]
    if missing := [name for name in needed if name not in history.columns]:
        raise KeyError(f"history has no column {missing}; it needs {needed} and has {list(history.columns)}")
    if not (np.isfinite(baseline) and baseline > 0):
        raise ValueError(f"baseline is {baseline}; it must be a positive number of nats")

    def curve(name: str) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
        told = history[["step", name]].dropna()
        return told["step"].to_numpy(dtype=np.float64), told[name].to_numpy(dtype=np.float64)

    steps, score = curve(column)
    start, end = rise(steps, score) if len(steps) >= 4 else (float("nan"), float("nan"))
    return Phases(
        baseline_reached=first_step(*curve("loss"), NEAR_BASELINE * baseline, "below"),
        unification_start=start,
        unification_end=end,
        recall_complete=first_step(*curve("recall"), RECALL_COMPLETE, "above"),
    )


def summarise(phases: Sequence[Phases]) -> pd.DataFrame:
    """Mean boundary over runs, in steps, with its 95 % interval.

    A row a boundary; columns `mean`, `ci_low`, `ci_high` (`intervals.mean_interval` over the runs that reached it,
    nan for fewer than two), `n` (runs that reached it) and `n_missing` (runs that did not). Where `n_missing`
    is not 0 the mean is of the runs that were fast enough, and too low.

    Raises ValueError for no runs.
    """
    if not phases:
        raise ValueError("phases is empty; it must hold at least one run")
    table = pd.DataFrame([asdict(run) for run in phases], columns=[f.name for f in fields(Phases)])
    rows = {}
    for name, column in table.items():
        reached = column.dropna().to_numpy()
        low, high = mean_interval(reached)[1:] if len(reached) > 1 else (float("nan"), float("nan"))
        rows[name] = {
            "mean": reached.mean() if len(reached) else float("nan"),
            "ci_low": low,
            "ci_high": high,
            "n": len(reached),
            "n_missing": len(column) - len(reached),
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("boundary")


def _times(steps: Float[ndarray, " n"], scale: str) -> Float[ndarray, " n"]:
    return np.log1p(steps) if scale == "log" else steps


def _resample(
    steps: Float[ndarray, " n"], values: Float[ndarray, " n"], scale: str
) -> tuple[Float[ndarray, " grid"], Float[ndarray, " grid"]]:
    """The curve at times that are evenly spaced on the scale."""
    times = _times(steps, scale)
    grid = np.linspace(times[0], times[-1], _GRID)
    return grid, np.interp(grid, times, values)


def _curve(
    steps: Float[ndarray, " n"], values: Float[ndarray, " n"]
) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    steps, values = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if steps.ndim != 1 or steps.shape != values.shape:
        raise ValueError(f"steps and values have shapes {steps.shape} and {values.shape}; both must be [n]")
    if not np.isfinite(values).all() or not np.isfinite(steps).all():
        raise ValueError("steps or values hold nan or infinity; all must be finite")
    if (steps < 0).any() or (np.diff(steps) <= 0).any():
        raise ValueError(f"steps are {steps}; they must be 0 or more and increase from one to the next")
    return steps, values

"""Intervals by resampling."""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import stats


def bootstrap_statistic(
    fn: Callable[..., float],
    *arrays: Sequence[float] | Float[np.ndarray, "models ..."],
    groups: Sequence | None = None,
    seed: int = 0,
    n_resamples: int = 2000,
) -> tuple[float, float, float]:
    """Statistic `fn(*arrays)` over models with its 95 % percentile interval, for `record(interval=...)`.

    Rows (models) are drawn with replacement, the same rows from every array. Models that share something,
    such as a seed or a condition, are not independent: name it in `groups`, and whole groups are drawn.

    Raises:
        ValueError: if the arrays differ in length, there are fewer than two rows or groups, or the statistic is
            undefined on the data. Where it is undefined on more than a tenth of the resamples (few groups), the
            interval is nan, and `record` will not take it.

    >>> mean, low, high = ul.measures.bootstrap_statistic(np.mean, [0.1, 0.3, 0.2, 0.4])
    >>> bool(low < mean < high)
    True
    """
    rows = [np.asarray(a) for a in arrays]
    lengths = [len(a) for a in rows]
    if not rows or len(set(lengths)) > 1 or lengths[0] < 2:
        raise ValueError(f"arrays: got lengths {lengths}; allowed: arrays of one length, two rows or more")
    labels = np.arange(lengths[0]) if groups is None else np.asarray(groups)
    if len(labels) != lengths[0]:
        raise ValueError(f"groups: got {len(labels)} labels; allowed: one for each of {lengths[0]} rows")
    members = [np.flatnonzero(labels == g) for g in np.unique(labels)]
    if len(members) < 2:
        raise ValueError(f"groups: got {len(members)} group; allowed: two or more")
    rng = np.random.default_rng(seed)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # a resample may be constant; what it gives is counted below
        value = float(fn(*rows))
        draws = np.empty(n_resamples)
        for k in range(n_resamples):
            index = np.concatenate([members[g] for g in rng.integers(len(members), size=len(members))])
            draws[k] = fn(*(a[index] for a in rows))
    if not np.isfinite(value):
        raise ValueError(f"statistic: got {value} on the data; allowed: a finite value")
    if np.mean(~np.isfinite(draws)) > 0.1:
        return value, float("nan"), float("nan")
    low, high = np.quantile(draws[np.isfinite(draws)], [0.025, 0.975])
    return value, float(low), float(high)


def mean_interval(values: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval: BCa, or percentile where BCa is undefined."""
    mean = float(values.mean())
    if np.ptp(values) == 0:
        return mean, mean, mean
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # an interval that could not be computed is not a number
            resampled = stats.bootstrap((values,), np.mean, method=method, rng=np.random.default_rng(0))
        low, high = map(float, resampled.confidence_interval)
        if np.isfinite([low, high]).all():
            break
    return mean, low, high

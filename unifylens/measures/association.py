"""Whether numbers go together: over models, within them, with others held fixed, and over pairs of languages."""

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Shaped
from numpy import ndarray
from scipy import stats

from unifylens.measures.checks import ROUNDING
from unifylens.measures.intervals import mean_interval


def rank_correlation(x: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> float:
    """Spearman's rank correlation over the pairs in which both are numbers.

    >>> score, transfer = [0.1, 0.2, 0.4, 0.5], [0.0, 0.3, 0.2, 0.9]
    >>> round(ul.measures.rank_correlation(score, transfer), 2)
    0.8
    """
    return float(stats.spearmanr(x, y, nan_policy="omit").statistic)


def rank_step(n: int) -> float:
    """The least by which a rank correlation of `n` values without ties can differ: two neighbours change places.

    >>> round(ul.measures.rank_step(6), 3)
    0.057
    """
    return 12 / (n**3 - n)


def concordance(values: Float[ndarray, "rater item"]) -> float:
    """Kendall's W: how much raters agree on the order of items, 0 not at all, 1 entirely; ties share their ranks.

    By chance it is one over the number of raters in the mean. nan where all items are tied for every rater. Raises
    ValueError for fewer than two raters, fewer than three items, or values that are not finite.

    >>> ul.measures.concordance([[0.1, 0.2, 0.9], [0.0, 0.4, 0.5]])
    1.0
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or values.shape[0] < 2 or values.shape[1] < 3:
        raise ValueError(f"values has shape {values.shape}; allowed: [rater, item], two raters and three items or more")
    if not np.isfinite(values).all():
        raise ValueError("values holds nan or infinity; all values must be finite")
    n_raters, n_items = values.shape
    ranks = stats.rankdata(values, axis=1)
    apart = np.square(ranks.sum(0) - n_raters * (n_items + 1) / 2).sum()
    spread = np.square(ranks - (n_items + 1) / 2).sum()  # at most, if all agree: n_raters times this
    return float(apart / (n_raters * spread)) if spread else float("nan")


def partial_rank_correlation(
    x: Float[ndarray, " n"], y: Float[ndarray, " n"], covariate: Float[ndarray, " n ..."]
) -> float:
    """Spearman correlation, -1 to 1, of `x` and `y` with one or more covariates `[n]` or `[n, k]` held fixed.

    Ranks are taken first, the covariates' ranks are regressed out of both, and what is left is correlated
    (Kendall 1942 for ranks). nan where nothing is left, as when the covariate orders `x` completely.

    Raises ValueError for lengths that differ, fewer than `k + 3` rows, or values that are not finite.
    """
    x, y, covariate = (np.asarray(values, dtype=np.float64) for values in (x, y, covariate))
    covariate = covariate.reshape(len(covariate), -1)
    if x.ndim != 1 or x.shape != y.shape or len(covariate) != len(x):
        raise ValueError(f"x, y, covariate have {x.shape}, {y.shape}, {covariate.shape}; lengths must be equal")
    if len(x) < (least := covariate.shape[1] + 3):
        raise ValueError(f"x has {len(x)} rows; with {covariate.shape[1]} covariate(s) it needs at least {least}")
    if not all(np.isfinite(values).all() for values in (x, y, covariate)):
        raise ValueError("x, y or covariate holds nan or infinity; all values must be finite")
    ranks = np.column_stack([np.ones(len(x)), stats.rankdata(covariate, axis=0)])
    rests = [_unexplained(stats.rankdata(values), ranks) for values in (x, y)]
    return float("nan") if any(rest is None for rest in rests) else float(stats.pearsonr(*rests).statistic)


def _unexplained(values: Float[ndarray, " n"], others: Float[ndarray, "n k"]) -> Float[ndarray, " n"] | None:
    """What a regression on `others` leaves of values; None where that is nothing but rounding."""
    rest = values - others @ np.linalg.lstsq(others, values, rcond=None)[0]
    return None if np.linalg.norm(rest) <= ROUNDING * np.linalg.norm(values) else rest


def mediation(x: Float[ndarray, " n"], mediator: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> dict[str, float]:
    """Effect of `x` on `y`, in standard deviations: `total`, `direct` with the mediator held fixed, `indirect` by it.

    Linear regressions (Baron and Kenny 1986): `total` is the slope of `y` on `x`; `direct` that beside the mediator;
    `indirect` the slope of the mediator on `x` times that of `y` on the mediator beside `x`. `total = direct +
    indirect`, exactly. It says what is consistent with a cause, not what is one. nan where one is constant or `x` and
    the mediator are collinear.

    Raises ValueError for lengths that differ, fewer than 4 rows, or values that are not finite.
    """
    named = {"x": x, "mediator": mediator, "y": y}
    columns = [np.asarray(values, dtype=np.float64) for values in named.values()]
    if len({values.shape for values in columns}) > 1 or columns[0].ndim != 1 or len(columns[0]) < 4:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in zip(named, columns, strict=True))
        raise ValueError(f"{shapes}: allowed are equal lengths [n] of at least 4")
    if not all(np.isfinite(values).all() for values in columns):
        raise ValueError("x, mediator or y holds nan or infinity; all values must be finite")
    xm, xy, my = np.nan, np.nan, np.nan
    if all(np.ptp(values) > ROUNDING * np.abs(values).max() for values in columns):
        (_, xm, xy), (_, _, my), _ = np.corrcoef(columns)
    room = 1 - xm**2
    direct = (xy - xm * my) / room if room > ROUNDING else float("nan")
    return {"total": float(xy), "direct": float(direct), "indirect": float(xy - direct)}


class WithinModels(NamedTuple):
    """How well a score tells right from wrong within models; see `within_models`."""

    auc: float
    """Mean over models."""
    low: float
    """Of its 95 % t interval over models; nan for one model."""
    high: float
    p: float
    """One-sided (above a half), from permutations within models."""
    n_models: int
    n_left_out: int
    """Models whose outcomes are all alike."""


def within_models(
    score: Float[ndarray, " row"],
    right: Bool[ndarray, " row"],
    model: Shaped[ndarray, " row"],
    n_permutations: int = 999,
    seed: int = 0,
) -> WithinModels:
    """Whether what scores higher is right, within models: the area under the ROC curve of each, and its mean.

    Rows are facts, such as of `ul.by_fact`, and `model` says whose. The area is the chance that a right one scores
    higher than a wrong one of the same model, ties half: 0.5 is nothing, 1 all. Facts of a model are not independent,
    so models are what the interval is over; `p` is the share of permutations of outcomes within models
    whose mean area is as high. Rows whose score is nan are left out, and so are models whose outcomes are all alike,
    which say nothing; they are counted.

    Raises ValueError for lengths that differ, outcomes that are neither true nor false, and where all models are left
    out.

    >>> found = ul.measures.within_models([0.1, 0.7, 0.9, 0.2, 0.4], [0, 1, 1, 0, 1], ["a", "a", "a", "b", "b"])
    >>> found.auc, found.n_models
    (1.0, 2)
    """
    score, given, model = np.asarray(score, dtype=np.float64), np.asarray(right), np.asarray(model)
    if score.ndim != 1 or not score.shape == given.shape == model.shape:
        raise ValueError(f"score, right, model have {score.shape}, {given.shape}, {model.shape}; allowed: equal [row]")
    if not np.isin(given, (0, 1)).all():
        raise ValueError("right holds other values than true and false (or 1 and 0); allowed: these alone")
    told, draw = ~np.isnan(score), np.random.default_rng(seed)
    areas, chance, names = [], np.zeros(n_permutations), np.unique(model)
    for name in names:
        mine = told & (model == name)
        ranks, outcome = stats.rankdata(score[mine]), given[mine].astype(bool)
        n, m = outcome.sum(), (~outcome).sum()
        if n and m:
            outcomes = draw.permuted(np.tile(outcome, (n_permutations, 1)), axis=1)
            area, permuted = ((x @ ranks - n * (n + 1) / 2) / (n * m) for x in (outcome, outcomes))
            areas.append(area)
            chance += permuted
    if not areas:
        raise ValueError(f"right is all alike in each of {len(names)} model(s); allowed: one with right and wrong ones")
    k, auc = len(areas), float(np.mean(areas))
    low, high = mean_interval(areas, within=(0, 1))[1:] if k > 1 else (float("nan"), float("nan"))
    p = (1 + (chance / k >= auc - 1e-12).sum()) / (1 + n_permutations)
    return WithinModels(auc, low, high, float(p), k, len(names) - k)


def shuffled_within(
    values: Float[ndarray, " row"], groups: Shaped[ndarray, "row *labels"], seed: int = 0
) -> Float[ndarray, " row"]:
    """Values dealt out anew among the rows of one group; a control that keeps all that groups explain.

    `groups` are labels, one a row or several (`table[["model", "relation"]]`). A group of one row keeps its value.
    Raises ValueError for lengths that differ.

    >>> ul.measures.shuffled_within([1.0, 1.0, 2.0, 2.0], ["a", "a", "b", "b"]).tolist()
    [1.0, 1.0, 2.0, 2.0]
    """
    values, labels = np.asarray(values, dtype=np.float64), pd.DataFrame(np.asarray(groups))
    if values.ndim != 1 or len(labels) != len(values):
        raise ValueError(f"values, groups have {values.shape}, {labels.shape}; allowed: one group for each of [row]")
    out, draw = values.copy(), np.random.default_rng(seed)
    for rows in labels.groupby(list(labels), sort=False).indices.values():
        out[rows] = draw.permutation(values[rows])
    return out


def chosen_by(
    score: Float[ndarray, " row"], value: Float[ndarray, " row"], group: Shaped[ndarray, " row"]
) -> pd.Series:
    """In each group the value of the row that a score would choose: its highest, the first of equal ones.

    Groups are runs, of which it chooses a checkpoint, or recipes, of which it chooses a model; what the choice costs is
    the best value, or the last, less this. Rows without a score are never chosen. Raises ValueError for lengths that
    differ, and groups without a score.

    >>> ul.measures.chosen_by([0.1, 0.5, 0.3], [0.0, 0.6, 0.9], ["run", "run", "run"]).to_dict()
    {'run': 0.6}
    """
    score, value, group = np.asarray(score, dtype=np.float64), np.asarray(value), np.asarray(group)
    if score.ndim != 1 or not score.shape == value.shape == group.shape:
        raise ValueError(f"score, value, group have {score.shape}, {value.shape}, {group.shape}; allowed: equal [row]")
    table = pd.DataFrame({"score": score, "value": value, "group": group})
    if (least := table.groupby("group")["score"].count()).eq(0).any():
        raise ValueError(f"score is nan in all rows of {least.idxmin()!r}; allowed: a number in each group")
    return table.loc[table.groupby("group")["score"].idxmax()].set_index("group")["value"]


def square(values: pd.Series) -> pd.DataFrame:
    """A symmetric table `[language, language]` of what is given by pair (index of two levels); the diagonal is nan.

    A pair that is given both ways round counts with its mean. Raises ValueError where a pair is missing.
    """
    names = list(dict.fromkeys([*values.index.get_level_values(0), *values.index.get_level_values(1)]))
    table = pd.DataFrame(np.nan, names, names)
    for a, b in combinations(names, 2):
        numbers = [values[pair] for pair in ((a, b), (b, a)) if pair in values.index]
        if not numbers:
            raise ValueError(f"values: the pair {a!r}, {b!r} is missing; allowed: every pair of {len(names)} languages")
        table.loc[a, b] = table.loc[b, a] = float(np.mean(numbers))
    return table


class Mantel(NamedTuple):
    """What `mantel_over_cuts` finds."""

    r: float
    """Mean correlation over cuts."""
    p: float
    """One-sided (positive), of that mean."""
    chance: Float[ndarray, " permutation"]
    """The same mean under each renaming."""
    by_cut: Float[ndarray, " cut"]


def mantel(
    x: Float[ndarray, "language language"],
    y: Float[ndarray, "language language"],
    given: Sequence[Float[ndarray, "language language"]] = (),
    n_permutations: int = 9999,
    seed: int = 0,
) -> tuple[float, float]:
    """Rank correlation of two symmetric tables over pairs of languages, and its one-sided p-value (positive).

    Pairs share languages, so they are not independent: the p-value comes from renaming the languages of `x` (Mantel
    1967). `given` tables are regressed out of the ranks of both first (partial test, Smouse, Long & Sokal 1986).

    Raises ValueError for tables that are not square and alike, fewer than four languages, and a table without
    variation.
    """
    return mantel_over_cuts([(x, y, given)], n_permutations=n_permutations, seed=seed)[:2]


def mantel_over_cuts(
    cuts: Sequence[tuple[ndarray, ndarray, Sequence[ndarray]]],
    *,
    ranks: bool = True,
    languages_out: bool = False,
    n_permutations: int = 9999,
    seed: int = 0,
) -> Mantel:
    """`mantel` of several cuts of one set of facts, `(x, y, given)` each, with one p-value for their mean correlation.

    Cuts share languages, so a mean of their p-values is none: here every renaming is of all cuts at once, and the mean
    correlation over cuts is what is compared. `ranks=False` correlates the values themselves. `languages_out` takes off
    what each language brings alone: a language that is known well, and alike to all others, raises every one of its
    pairs in both tables, and tells nothing of pairs. What is left of the values is the pair's own (`x_ab - u - x_a -
    x_b`, by least squares, beside what is `given`), and that is ranked: ranks of sums are no sums, so taken off ranks
    the languages would leave the same bend in both tables (correlation 0.9 in tables that have no pair of their own).

    Raises ValueError as `mantel` does, for no cut, and for cuts of different numbers of languages.
    """
    if not cuts:
        raise ValueError("cuts is empty; allowed: one or more")
    n = len(cuts[0][0])
    for number, (x, y, given) in enumerate(cuts):
        where = f" of cut {number}" if len(cuts) > 1 else ""
        for name, table in {"x": x, "y": y, **{f"given[{i}]": t for i, t in enumerate(given)}}.items():
            if np.shape(table) != (n, n) or n < 4:
                raise ValueError(
                    f"{name}{where} has shape {np.shape(table)}; allowed: [language, language], four or more"
                )
            if not np.isfinite(np.asarray(table)[np.triu_indices(n, 1)]).all():
                raise ValueError(f"{name}{where} has a pair of languages without a number; allowed: one for every pair")
    upper = np.triu_indices(n, 1)
    before, after = (np.asarray, stats.rankdata) if languages_out else (stats.rankdata, np.asarray)
    if not ranks:
        before = after = np.asarray
    alone = [np.ones(len(upper[0]))]
    if languages_out:
        alone = [((upper[0] == k) | (upper[1] == k)).astype(float) for k in range(n)]  # they add up to a constant

    def left_over(values: ndarray, others: ndarray) -> ndarray:
        """Ranks or values with what `others` span taken off, about their mean and of unit length."""
        values = before(values)
        rest = values - others @ (others.T @ values)
        if np.linalg.norm(rest) <= ROUNDING * np.linalg.norm(values):
            raise ValueError("a table does not vary over pairs (or not beyond what is given): no correlation")
        rest = after(rest) - after(rest).mean()
        return rest / np.linalg.norm(rest)

    tables = []
    for x, y, given in cuts:
        spanning = np.stack([*alone, *(before(np.asarray(table, dtype=float)[upper]) for table in given)], 1)
        directions, strength, _ = np.linalg.svd(spanning / np.linalg.norm(spanning, axis=0), full_matrices=False)
        others = directions[:, strength > ROUNDING * strength[0]]
        tables.append((np.asarray(x, dtype=float), left_over(np.asarray(y, dtype=float)[upper], others), others))

    def correlations(order: ndarray) -> list[float]:
        rows, columns = order[upper[0]], order[upper[1]]
        return [float(left_over(x[rows, columns], others) @ fixed) for x, fixed, others in tables]

    by_cut, draw = np.array(correlations(np.arange(n))), np.random.default_rng(seed)
    chance = np.array([np.mean(correlations(draw.permutation(n))) for _ in range(n_permutations)])
    r = float(by_cut.mean())
    return Mantel(r, float((1 + (chance >= r - 1e-12).sum()) / (1 + n_permutations)), chance, by_cut)

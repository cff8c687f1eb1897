"""In which of the dishes drawn at random a claim's test passes: one number a dish, from the means over its seeds.

The tests are those of the claims, as far as few models of a dish can tell; what they ask of a dish stands in the
ledger (`dish`) and was written before the dishes were trained on the reported seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd

from unifylens.evidence.ledger import CLAIMS
from unifylens.evidence.two_ways import COLUMNS, parts
from unifylens.measures.association import rank_correlation

NONE, AS_DRAWN, MANY = "no parallel facts", "as drawn", "many parallel facts"
UNIFIED_FROM, SEPARATE_TO = 0.5, 0.1
"""Transfer above chance (0 at chance, 1 where all is right) of conditions that C3 tells apart by their score."""

LABELS = ("dish", "condition", "seed")
Means = pd.DataFrame
"""Of one dish, a row a condition, a column a number of its histories' last rows, and `above_chance`."""


def means_by_dish(finals: pd.DataFrame) -> dict[int, Means]:
    """Means over seeds of the last evaluations of `designs.across_dishes()`, by dish, a row a condition.

    `finals` has columns dish, condition, seed, n_objects and those of `run.history`. Raises ValueError for one that is
    missing.
    """
    if missing := [name for name in (*LABELS, "n_objects") if name not in finals]:
        raise ValueError(f"finals lacks the columns {missing}; allowed: runs.final of designs.across_dishes()")
    chance = 1 / finals["n_objects"]
    finals = finals.assign(above_chance=(finals["transfer"] - chance) / (1 - chance))
    numbers = finals.select_dtypes("number").columns.drop(["dish", "seed"])
    return {dish: rows.groupby("condition")[list(numbers)].mean() for dish, rows in finals.groupby("dish")}


def _change(condition: str, column: str = "transfer") -> Callable[[Means], float]:
    return lambda means: float(means.loc[condition, column] - means.loc[AS_DRAWN, column])


def _gap(means: Means) -> float:
    """Score of the lowest condition that transfers, less that of the highest that does not; nan without one of both."""
    score, transfer = means["fact_only"], means["above_chance"]
    return float(score[transfer >= UNIFIED_FROM].min() - score[transfer <= SEPARATE_TO].max())


def _order(means: Means) -> float:
    """Rank correlation of score and transfer over conditions; nan where one of them is everywhere the same."""
    score, transfer = means["fact_only"], means["transfer"]
    return rank_correlation(score, transfer) if min(score.nunique(), transfer.nunique()) > 1 else float("nan")


EFFECTS: Mapping[str, Callable[[Means], float]] = {
    "C1": lambda means: float(means.loc[NONE, "above_chance"]),
    "B1": lambda means: float(
        means.loc["early parallel facts", "transfer"] - means.loc["late parallel facts", "transfer"]
    ),
    "C8": lambda means: float(means.loc[MANY, "unification"] - means.loc[NONE, "unification"]),
    "C3": _gap,
    "C10": _order,
    "C4": _change("exposure uneven"),
    "C4-object": _change("objects tied to languages"),
    "C5": _change("subject words unshared"),
}
"""By claim, what its test looks at in one dish."""


def effects(finals: pd.DataFrame) -> pd.DataFrame:
    """Every claim in every dish: columns claim, dish, effect, passes (nan effects do not pass: nothing was shown).

    Raises ValueError as `means_by_dish` does.
    """
    rows = []
    for dish, means in means_by_dish(finals).items():
        for claim_id, effect in EFFECTS.items():
            value = effect(means)
            passes = bool(np.isfinite(value)) and CLAIMS[claim_id].passes_in_dish(value)
            rows.append({"claim": claim_id, "dish": dish, "effect": value, "passes": passes})
    return pd.DataFrame(rows)


def settings_that_matter(found: pd.DataFrame, settings: pd.DataFrame, n_permutations: int = 999) -> pd.DataFrame:
    """Rank correlation over dishes of each claim's effect with each setting: columns claim, setting, correlation, p.

    `settings` has a row a dish; settings with names count as one column a name. `p` is two-sided, of the largest
    correlation over a claim's settings when dishes are permuted (Westfall and Young 1993), so that many settings cost
    nothing in honesty.
    """
    columns = pd.get_dummies(settings, drop_first=True).astype(float)
    columns = columns.loc[:, columns.nunique() > 1]
    ranks = _unit(columns.rank().to_numpy())
    draw, rows = np.random.default_rng(0), []
    for claim_id, of_claim in found.dropna(subset="effect").groupby("claim", sort=False):
        if of_claim["effect"].nunique() < 2:
            continue
        here = ranks[of_claim["dish"].to_numpy()]
        effect = _unit(of_claim["effect"].rank().to_numpy()[:, None])
        correlation = (_unit(here).T @ effect)[:, 0]
        orders = np.stack([draw.permutation(len(effect)) for _ in range(n_permutations)])
        largest = np.abs(np.einsum("nk,pn->pk", _unit(here), effect[orders, 0])).max(1)
        p = [(1 + (largest >= abs(r) - 1e-12).sum()) / (1 + n_permutations) for r in correlation]
        rows += [
            {"claim": claim_id, "setting": name, "correlation": r, "p": q}
            for name, r, q in zip(columns.columns, correlation, p, strict=True)
        ]
    return pd.DataFrame(rows)


def _unit(columns: np.ndarray) -> np.ndarray:
    """Columns less their mean, of length one; a constant one is zero."""
    rest = columns - columns.mean(0)
    length = np.linalg.norm(rest, axis=0)
    return rest / np.where(length > 0, length, 1)


def two_ways(finals: pd.DataFrame, forces: Mapping[str, str]) -> pd.DataFrame:
    """What each force costs in a dish: `lost`, the fall of transfer, and the three parts that it is the sum of.

    The parts are those of `two_ways.parts`. `forces` names conditions by force.
    """
    tables = []
    for dish, means in means_by_dish(finals).items():
        falls = [{column: -_change(condition, column)(means) for column in COLUMNS} for condition in forces.values()]
        found = parts(pd.DataFrame(falls))
        tables.append(found.assign(dish=dish, force=list(forces))[["force", "dish", *found]])
    return pd.concat(tables, ignore_index=True)

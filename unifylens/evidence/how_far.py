"""In which of the dishes drawn at random a claim's test passes: one number a dish, from the means over its seeds.

The tests are those of the claims, as far as few models of a dish can tell; what they ask of a dish stands in the
ledger (`dish`) and was written before the dishes were trained on the reported seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from unifylens.evidence.ledger import CLAIMS
from unifylens.evidence.two_ways import COLUMNS, parts
from unifylens.measures.association import rank_correlation

NONE, FEW, AS_DRAWN, MANY = "no parallel facts", "few parallel facts", "as drawn", "many parallel facts"
EARLY, LATE = "early parallel facts", "late parallel facts"
LEARNT = 0.9
"""Recall that every kind of copy must have in the conditions that a test compares: what was not learnt, or was
forgotten, tells nothing about transfer."""
TRANSFERS_FROM, SEPARATE_TO = 0.5, 0.1
"""Prior-corrected transfer above chance (0 at chance, 1 all right) from which a condition transfers, for C3, and up to
which it does not."""

LABELS = ("dish", "condition", "seed")
RECALLS = ("recall_monolingual", "recall_majority", "recall_minority")
Means = pd.DataFrame
"""Of one dish, a row a condition, a column a number of its histories' last rows, and transfer above chance, raw and
prior-corrected: `above_chance`, `corrected_above_chance`."""


def means_by_dish(finals: pd.DataFrame) -> dict[int, Means]:
    """Means over seeds of the last evaluations of `designs.across_dishes()`, by dish, a row a condition.

    `finals` has columns dish, condition, seed, n_objects and those of `run.history`. Raises ValueError for one that is
    missing.
    """
    if missing := [name for name in (*LABELS, *RECALLS, "n_objects") if name not in finals]:
        raise ValueError(f"finals lacks the columns {missing}; allowed: runs.final of designs.across_dishes()")
    chance = 1 / finals["n_objects"]
    names = {"transfer": "above_chance", "transfer_corrected": "corrected_above_chance"}
    finals = finals.assign(**{new: (finals[old] - chance) / (1 - chance) for old, new in names.items()})
    numbers = finals.select_dtypes("number").columns.drop(["dish", "seed"])
    return {dish: rows.groupby("condition")[list(numbers)].mean() for dish, rows in finals.groupby("dish")}


def _change(condition: str, column: str = "transfer") -> Callable[[Means], float]:
    return lambda means: float(means.loc[condition, column] - means.loc[AS_DRAWN, column])


def _lowest_that_transfers(means: Means) -> float:
    """Lowest score of the conditions that transfer: C3 asks the same of it in every dish; nan where none does."""
    return float(means.loc[means["corrected_above_chance"] >= TRANSFERS_FROM, "fact_only"].min())


def _transfer_at_few(means: Means) -> float:
    """Transfer with few parallel facts; nan where many do not make facts transfer either, as that shows nothing."""
    return float(means.loc[FEW, "above_chance"]) if means.loc[MANY, "above_chance"] >= TRANSFERS_FROM else float("nan")


def _order(means: Means) -> float:
    """Rank correlation of score and transfer over conditions; nan where one of them is everywhere the same."""
    score, transfer = means["fact_only"], means["transfer_corrected"]
    return rank_correlation(score, transfer) if min(score.nunique(), transfer.nunique()) > 1 else float("nan")


class DishTest(NamedTuple):
    """What a claim's test looks at in one dish."""

    compared: tuple[str, ...]
    """Conditions whose copies must all be learnt."""
    effect: Callable[[Means], float]
    """nan where there is nothing to see."""

    def learnt(self, means: Means) -> bool:
        """Whether they are."""
        return bool(means.loc[list(self.compared), list(RECALLS)].min().min() >= LEARNT)


def _against(condition: str) -> DishTest:
    return DishTest((AS_DRAWN, condition), _change(condition))


TESTS: Mapping[str, DishTest] = {
    "C1": DishTest((FEW, MANY), _transfer_at_few),
    "B1": DishTest((EARLY, LATE), lambda means: float(means.loc[EARLY, "transfer"] - means.loc[LATE, "transfer"])),
    "C8": DishTest((NONE, MANY), lambda means: float(means.loc[MANY, "unification"] - means.loc[NONE, "unification"])),
    "C3": DishTest((AS_DRAWN,), _lowest_that_transfers),
    "C10": DishTest((AS_DRAWN,), _order),
    "C4": _against("exposure uneven"),
    "C4-object": _against("objects tied to languages"),
    "C5": _against("subject words unshared"),
}
"""By claim."""

OUTCOMES = ("passes", "fails", "untestable")
"""Untestable: copies that are compared were not learnt, or there is nothing to compare (the effect is nan)."""


def effects(finals: pd.DataFrame) -> pd.DataFrame:
    """Every claim in every dish: columns claim, dish, effect, outcome, which is one of `OUTCOMES`.

    Raises ValueError as `means_by_dish` does.
    """
    rows = []
    for dish, means in means_by_dish(finals).items():
        for claim_id, test in TESTS.items():
            value = test.effect(means)
            testable = np.isfinite(value) and test.learnt(means)
            outcome = OUTCOMES[2 if not testable else 0 if CLAIMS[claim_id].passes_in_dish(value) else 1]
            rows.append({"claim": claim_id, "dish": dish, "effect": value, "outcome": outcome})
    return pd.DataFrame(rows)


def cuts(scored: pd.DataFrame) -> pd.DataFrame:
    """Does a cut of the score, best in all other dishes, tell what transfers in this one? Columns dish, cut, accuracy.

    `scored` has a row a dish and condition, with columns dish, fact_only and corrected_above_chance; those between
    `SEPARATE_TO` and `TRANSFERS_FROM` are left out. `accuracy` is balanced: the mean share told right of those that
    transfer and of those that do not, 0.5 at chance; nan in a dish without one of both.
    """
    transfer = scored["corrected_above_chance"]
    clear = scored[(transfer >= TRANSFERS_FROM) | (transfer <= SEPARATE_TO)]
    rows = []
    for dish in scored["dish"].unique():
        here = clear["dish"] == dish
        others = np.sort(clear.loc[~here, "fact_only"].unique())
        between = (others[1:] + others[:-1]) / 2
        cut = max(between, key=lambda c: np.nan_to_num(_told_apart(clear[~here], c)), default=float("nan"))
        rows.append({"dish": dish, "cut": float(cut), "accuracy": _told_apart(clear[here], cut)})
    return pd.DataFrame(rows)


def _told_apart(scored: pd.DataFrame, cut: float) -> float:
    transfers, above = scored["corrected_above_chance"] >= TRANSFERS_FROM, scored["fact_only"] >= cut
    if transfers.all() or not transfers.any():
        return float("nan")
    return float((above[transfers].mean() + (~above[~transfers]).mean()) / 2)


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

    The parts are those of `two_ways.parts`. `forces` names conditions by force; a dish whose copies are not all learnt
    under a force has no row for it.
    """
    rows = []
    for dish, means in means_by_dish(finals).items():
        for force, condition in forces.items():
            if _against(condition).learnt(means):
                falls = {column: -_change(condition, column)(means) for column in COLUMNS}
                rows.append({"force": force, "dish": dish, **falls})
    found = pd.DataFrame(rows, columns=["force", "dish", *COLUMNS])
    return pd.concat([found[["force", "dish"]], parts(found)], axis=1)

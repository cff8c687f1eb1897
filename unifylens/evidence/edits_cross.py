"""Edits judged: do they cross to the other language where facts are unified, model by model and fact by fact (B6)?

Tables come from `crosslingual.editing`, stacked over runs with labels beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

AT_HOME = {
    "fact": "fact",
    "relation": "relation",
    "answered": "efficacy",
    "paraphrase": "paraphrase",
    "neighbours": "neighbours",
    "relations": "relations",
    "gain": "gain",
}
"""What is read where the edit was made: columns of `editing.judged`, and their names here."""
ELSEWHERE = {
    "answered": "carry_over",
    "paraphrase": "paraphrase_elsewhere",
    "before": "before",
    "known": "transferred",
    "gain": "gain_elsewhere",
    "control": "others",
    "control_gain": "gain_others",
}
"""What is read in other languages, as their mean."""


def by_edit(judged: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """A row an edit: `labels` of its run, what it does at home (`AT_HOME`) and elsewhere (`ELSEWHERE`).

    `carry_over` is whether the new object is the answer elsewhere, `others` how often it is of other facts of the
    relation there; `arrived` is the share of the edit's gain at home that arrives elsewhere (nan where it gains nothing
    at home). A column `score` is kept. Raises ValueError where an edit was not asked both at home and elsewhere.
    """
    keys = [*labels, "edit"]
    same = judged["asked"] == judged["edited"]
    kept = [name for name in ("score",) if name in judged]
    home = judged[same].set_index(keys)[[*AT_HOME, *kept]].rename(columns=AT_HOME)
    away = judged[~same].groupby(keys)[list(ELSEWHERE)].mean().rename(columns=ELSEWHERE)
    if home.index.has_duplicates or not home.index.sort_values().equals(away.index):
        raise ValueError("judged lacks an edit at home or elsewhere, or labels do not tell runs apart")
    found = home.join(away).sort_index().reset_index()
    with np.errstate(divide="ignore", invalid="ignore"):
        arrived = found["gain_elsewhere"] / found["gain"]
    return found.assign(arrived=arrived.where(found["gain"] > 0))


def by_model(edits: pd.DataFrame, labels: Sequence[str]) -> pd.DataFrame:
    """A row a run: means over its edits, and how far they cross; `labels` are its index.

    `crossing` is the median gain elsewhere over the median gain at home, `crossing_others` the same of other facts of
    the relation, which an edit of one fact should leave alone.
    """
    runs = edits.groupby(list(labels))
    names = [name for name in (*AT_HOME.values(), *ELSEWHERE.values()) if name not in ("fact", "relation")]
    gains = runs[["gain", "gain_elsewhere", "gain_others"]].median()
    return (
        runs[names]
        .mean()
        .assign(crossing=gains["gain_elsewhere"] / gains["gain"], crossing_others=gains["gain_others"] / gains["gain"])
    )


def most_by_others(models: pd.DataFrame) -> Float[np.ndarray, " seed"]:
    """B6-edits' control, seed by seed: the largest `crossing_others` of a seed's models, whatever its sign."""
    return models["crossing_others"].abs().groupby("seed").max().to_numpy()


# --- fact by fact --------------------------------------------------------------------------------------------


def within_relations(edits: pd.DataFrame) -> Float[np.ndarray, " seed"]:
    """B6-fact, seed by seed: mean over models of the rank correlation of `score` and `arrived` within relations.

    Ranks are taken among a model's facts of one relation, so that what differs between relations counts for nothing.
    `edits` is what `by_edit` gives, with labels parallel and seed.
    """
    return np.array([np.mean([_correlation(*ranks[1:]) for ranks in models]) for models in _ranked(edits).values()])


def within_relations_by_chance(edits: pd.DataFrame, n_permutations: int = 999) -> Float[np.ndarray, " draw"]:
    """The mean over seeds of the same, scores dealt out anew within model and relation."""
    draw, seeds = np.random.default_rng(0), list(_ranked(edits).values())

    def dealt(relation: Int[np.ndarray, " fact"], score: Float[np.ndarray, " fact"]) -> Float[np.ndarray, " fact"]:
        out = np.empty_like(score)
        out[np.argsort(relation, kind="stable")] = score[np.lexsort((draw.random(len(score)), relation))]
        return out

    def chance(models: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> float:
        return float(np.mean([_correlation(dealt(of, score), arrived) for of, score, arrived in models]))

    return np.array([np.mean([chance(models) for models in seeds]) for _ in range(n_permutations)])


def _ranked(edits: pd.DataFrame) -> dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]]:
    """By seed and model: relations, and ranks within them of score and of what arrived, from 0 to 1 about 0."""
    told = edits.dropna(subset=["score", "arrived"])
    found: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for (seed, _), rows in told.groupby(["seed", "parallel"]):
        within = rows.groupby("relation")
        score, arrived = (
            (within[name].rank() - (within[name].transform("size") + 1) / 2) / within[name].transform("size")
            for name in ("score", "arrived")
        )
        found.setdefault(int(seed), []).append((rows["relation"].to_numpy(), score.to_numpy(), arrived.to_numpy()))
    return found


def _correlation(x: Float[np.ndarray, " fact"], y: Float[np.ndarray, " fact"]) -> float:
    """Of values whose mean is 0."""
    return float(x @ y / np.sqrt((x @ x) * (y @ y)))


# --- angles --------------------------------------------------------------------------------------------------


def apart(angles: pd.DataFrame, unified: float, separate: float) -> Float[np.ndarray, " seed"]:
    """B6-angle, seed by seed: the mean cosine of two languages' edits at one share of parallel facts less at another.

    `angles` stacks `editing.angles`, with labels parallel and seed.
    """
    cosine = angles.groupby(["parallel", "seed"])["cosine"].mean()
    return (cosine[unified] - cosine[separate]).to_numpy()


def not_orthogonal(angles: pd.DataFrame, unified: float, separate: float) -> Float[np.ndarray, " seed"]:
    """Its control: the larger of the mean cosines of different facts where unified, and of one fact where separate."""
    mean = angles.groupby(["parallel", "seed"])[["cosine", "control"]].mean()
    return np.maximum(mean["control"][unified], mean["cosine"][separate]).to_numpy()

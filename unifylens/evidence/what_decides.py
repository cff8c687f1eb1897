"""What decides whether a fact crosses: how each fact is lost, and how well it is foretold in dishes never fitted on.

Facts are rows of `crosslingual.evaluate.by_fact`, with labels of their models beside them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from unifylens.config import Experiment
from unifylens.measures.association import within_models

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

WAYS = {
    "crosses": "right in a language in which it was never read",
    "in other answers": "right among the relation's objects in the language asked, but something else is answered",
    "in the output prior": "right when each answer's mean log-probability is taken off",
    "own word unshared": "lost beyond the output prior, and its subject has another word in each language",
    "beyond the output prior": "lost beyond the output prior, under one word in both languages",
}
"""What becomes of a held-out fact."""

PREDICTORS = {
    "parallel facts": ("share of parallel facts",),
    "words": ("share of shared words", "own word shared"),
    "answers": ("frequency of the answer",),
    "exposure": ("own exposure",),
    "states": ("model's score", "own score"),
}
"""What a fact's crossing may be foretold from, by kind; all but the last are told by the data alone."""


def ways(facts: pd.DataFrame) -> pd.Series:
    """Which of `WAYS` every held-out fact goes, from the columns of `by_fact`.

    A corrected choice is sometimes right by luck: see how many right ones it makes wrong.
    """
    told = [
        facts["right"],
        facts["margin"] > 0,
        facts["margin_corrected"] > 0,
        ~facts["shared_subject"].astype(bool),
    ]
    names = list(WAYS)
    return pd.Series(np.select(told, names[:-1], names[-1]), index=facts.index, name="way")


def with_predictors(facts: pd.DataFrame, experiments: Mapping[Any, Experiment], model: Sequence[str]) -> pd.DataFrame:
    """`facts` with the columns of `PREDICTORS`, of models named by the columns `model`.

    - shares are the dish's settings, between 0 and 1; `own word shared` is 0 or 1;
    - `frequency of the answer`: log2 of its share of the training examples of its relation in the language asked, times
      the number of objects (0 is as usual as any; answers never told there count as one in 10,000);
    - `own exposure`: log2 of `exposure` (0 is average);
    - `own score` is `fact_only`, and the model's mean where a fact has none.

    Raises KeyError for a model that `experiments` lacks.
    """
    settings = pd.DataFrame(
        {
            key: {
                "share of parallel facts": experiment.corpus.parallel,
                "share of shared words": experiment.language.shared_subjects,
                "objects": experiment.world.n_objects,
            }
            for key, experiment in experiments.items()
        }
    ).T
    names = pd.MultiIndex.from_frame(facts[list(model)])
    if len(unknown := names.unique().difference(settings.index)):
        raise KeyError(f"experiments lacks {tuple(unknown[0])}; allowed: one for each model of the facts.")
    objects = settings["objects"].loc[names].to_numpy()
    score = facts.groupby(list(model))["fact_only"].transform("mean")
    return facts.assign(
        **{name: settings[name].loc[names].to_numpy() for name in settings if name != "objects"},
        **{
            "own word shared": facts["shared_subject"].astype(float),
            "frequency of the answer": np.log2(facts["frequency_asked"].fillna(0).clip(lower=1e-4) * objects),
            "own exposure": np.log2(facts["exposure"].clip(lower=1e-4)),
            "model's score": score,
            "own score": facts["fact_only"].fillna(score),
        },
    )


def fitted(facts: pd.DataFrame, predictors: Sequence[str]) -> Pipeline:
    """A logistic regression of `right` on standardised columns, in which every dish (column `dish`) weighs the same."""
    from sklearn.linear_model import LogisticRegression  # slow to load
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    weight = 1 / facts.groupby("dish")["dish"].transform("size")
    regression = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    weights = (weight * len(facts) / weight.sum()).to_numpy()
    return regression.fit(facts[list(predictors)], facts["right"], logisticregression__sample_weight=weights)


def foretold(facts: pd.DataFrame, predictors: Sequence[str], shuffled: int | None = None) -> pd.Series:
    """How well `right` is foretold in each dish by a regression on the others: area under the ROC curve, by dish.

    That is the chance that a fact which crosses is given a higher chance of it than one of the same dish which does
    not: 0.5 is nothing. `shuffled`, a seed, deals outcomes out anew among the facts of each dish that is fitted on,
    which leaves what differences between dishes tell. It is no control of one predictor: its area is that of the
    predictor or of its reverse, whatever was dealt. Raises ValueError for fewer than two dishes.
    """
    dishes = facts["dish"].unique()
    if len(dishes) < 2:
        raise ValueError(f"facts are of {len(dishes)} dish; allowed: two or more, as each is foretold from others.")
    seen = facts
    if shuffled is not None:
        draw = np.random.default_rng(shuffled)
        dealt = facts.groupby("dish")["right"].transform(lambda right: draw.permutation(right.to_numpy()))
        seen = facts.assign(right=dealt.astype(bool))
    areas = {}
    for dish in dishes:
        rest, own = seen[seen["dish"] != dish], facts[facts["dish"] == dish]
        chance = fitted(rest, predictors).predict_proba(own[list(predictors)])[:, 1]
        areas[dish] = within_models(chance, own["right"], np.zeros(len(own)), n_permutations=1).auc
    return pd.Series(areas, name="area").rename_axis("dish")

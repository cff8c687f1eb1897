"""Two ways to lose transfer: how far a force's cost lies in the output prior, and which repair gives it back (B6)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

COLUMNS = ("transfer", "transfer_choice", "transfer_corrected")
PARTS = ("in_representation", "in_prior", "in_other_answers")
SHUFFLED = ("bias shuffled", "states shuffled", "separate donor")
"""Repairs that must restore nothing."""


def parts(lost: pd.DataFrame) -> pd.DataFrame:
    """What a fall of transfer is the sum of, from the falls of `COLUMNS`: columns lost and `PARTS`.

    `in_representation` is what falls beyond the output prior, the fall of prior-corrected transfer: a remainder, which
    does not say where in the model it is lost. `in_prior` is what falls further where each answer keeps its mean
    log-probability, among the relation's objects in the language asked; `in_other_answers` the rest: answers in another
    language, or none of these objects. Parts are signed.
    """
    raw, choice, corrected = (lost[name] for name in COLUMNS)
    values = (raw, corrected, choice - corrected, raw - choice)
    return pd.DataFrame(dict(zip(("lost", *PARTS), values, strict=True)), index=lost.index)


def split(finals: pd.DataFrame) -> pd.DataFrame:
    """What each force costs, seed by seed: `parts`, and `prior_share`, the prior's part of what is lost.

    `finals` has a row for every notebook, force, end (`without` and `with` the force) and seed, and `COLUMNS`; the
    index of the result is the first two and the seed. Raises ValueError where an end is missing.
    """
    wide = finals.pivot(index=["notebook", "force", "seed"], columns="end", values=list(COLUMNS))
    if wide.isna().any(axis=None) or set(finals["end"]) != {"without", "with"}:
        raise ValueError("finals lacks numbers of a seed, or an end; allowed: each seed with and without every force.")
    found = parts(pd.DataFrame({name: wide[name]["without"] - wide[name]["with"] for name in COLUMNS}))
    return found.assign(prior_share=found["in_prior"] / found["lost"])


def prior_apart(found: pd.DataFrame, prior: str, representation: Sequence[str]) -> Float[np.ndarray, " seed"]:
    """B6, seed by seed: the prior's share of what one force costs, less the largest share among the others."""
    share = found.reset_index().pivot(index="seed", columns="force", values="prior_share")
    return (share[prior] - share[list(representation)].max(axis=1)).to_numpy()


def restored(repaired: pd.DataFrame) -> pd.DataFrame:
    """The share of what a force costs that each repair restores: columns bias, states and `SHUFFLED`, same index.

    `repaired` has the columns of `crosslingual.repairs`, `separate donor` and `without`, transfer without the force.
    What a bias gives to guesses (right answers where another fact's answer is due) is taken off `bias`.
    """
    lost = repaired["without"] - repaired["unrepaired"]
    gained = repaired[["bias", "states", *SHUFFLED]].sub(repaired["unrepaired"], axis=0)
    gained["bias"] -= repaired["bias, due shuffled"] - repaired["due shuffled"]
    return gained.div(lost, axis=0)


def dissociation(shares: pd.DataFrame, prior: str, representation: Sequence[str]) -> Float[np.ndarray, " seed"]:
    """B6-cause, seed by seed: the smaller of two differences of `restored` shares, whose index is force and seed.

    What the bias restores of one force's cost less the most that it restores of another's; the least that states
    restore of the others' less what they restore of the first's.
    """
    bias, states = (shares[name].unstack("force") for name in ("bias", "states"))
    others = list(representation)
    by_bias = bias[prior] - bias[others].max(axis=1)
    by_states = states[others].min(axis=1) - states[prior]
    return np.minimum(by_bias, by_states).to_numpy()


def most_by_controls(shares: pd.DataFrame) -> Float[np.ndarray, " seed"]:
    """The largest share that a control restores of any force's cost, seed by seed."""
    return shares[list(SHUFFLED)].max(axis=1).groupby("seed").max().to_numpy()

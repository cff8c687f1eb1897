"""Whence answers come, judged: is a fact's twin singled out, when, and what does training without it do (B7-twin ...)?

A prompt's twin is the same fact in the language in which it was told. Influence is what `ul.influence.tracin` gives,
lifts by step are those of `ul.influence.whence`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int


def lifts(
    influence: Float[np.ndarray, "example prompt"], chosen: Int[np.ndarray, " prompt"]
) -> Float[np.ndarray, " prompt"]:
    """How many times its share of the examples one example's share of a prompt's influence above 0 is; 1: as any."""
    positive = np.clip(influence, 0, None)
    return positive[chosen, np.arange(len(chosen))] / positive.mean(0)


def ranks(
    influence: Float[np.ndarray, "example prompt"], chosen: Int[np.ndarray, " prompt"]
) -> Int[np.ndarray, " prompt"]:
    """The place of one example for each prompt by its influence: 1 if none has more."""
    return 1 + (influence > influence[chosen, np.arange(len(chosen))]).sum(0)


def dealt(
    influence: Float[np.ndarray, "example prompt"],
    among: Bool[np.ndarray, "example prompt"],
    n_draws: int = 400,
    seed: int = 0,
) -> Float[np.ndarray, " draw"]:
    """Mean lift over prompts when, for each, the twin's name goes to one of some examples by lot.

    Raises ValueError where a prompt has none of them.
    """
    if not among.any(0).all():
        raise ValueError(f"among: prompt {np.flatnonzero(~among.any(0))[0]} has no example; allowed: one or more")
    draw, lift = np.random.default_rng(seed), np.clip(influence, 0, None)
    lift = lift / lift.mean(0)
    return np.mean([lift[draw.choice(np.flatnonzero(some), n_draws), i] for i, some in enumerate(among.T)], axis=0)


def late_less_early(lift: pd.Series, steps: int) -> float:
    """B7-late: mean of a lift, indexed by step, in the second half of `steps` minus that in the first tenth.

    Raises ValueError where a part has no checkpoint.
    """
    step = lift.index.get_level_values("step")
    early, late = lift[step <= steps / 10], lift[step > steps / 2]
    if early.empty or late.empty:
        raise ValueError(
            f"lift has steps {list(step)}; allowed: some up to {steps / 10:g} and some after {steps / 2:g}"
        )
    return float(late.mean() - early.mean())


def losses(changes: pd.DataFrame) -> pd.DataFrame:
    """What leaving out costs right answers, in nats: a row for each `kind` and `seed`.

    `changes` has a row for every training and group of prompts: `kind`, `seed`, what was `left_out` (twins or random),
    the `number` of the group whose twins these are, the `group` asked, and the `change` of the mean log-probability of
    its right answers. Columns: `own`, without the group's twins; `others`, without those of other groups; `random`,
    without as many random examples; `beyond`, own minus the larger of these two.
    """
    twins = changes["left_out"] == "twins"
    own = twins & (changes["number"] == changes["group"])
    by = [changes["kind"], changes["seed"], np.select([own, twins], ["own", "others"], "random")]
    table = (-changes["change"]).groupby(by, sort=False).mean().unstack()[["own", "others", "random"]]
    return table.assign(beyond=table["own"] - table[["others", "random"]].max(axis=1))

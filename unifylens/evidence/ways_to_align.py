"""Ways to align, compared: what each brings beyond what it is measured against, and whether alike states bring it (B5).

Tables have a row a run of `designs.alignment.contest` and columns of its labels and of `runs.final`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from unifylens.measures.association import concordance
from unifylens.measures.checks import ROUNDING

GAINS = {"transfer": "transfer", "corrected": "transfer_corrected", "score": "fact_only"}
"""What is gained, and the column of a history it is the difference of."""


def gains(finals: pd.DataFrame) -> pd.DataFrame:
    """What every method brings over what its label `against` names, of the same base and seed: columns of `GAINS`.

    With them the labels, and recall, and answers in a wrong language, as they are. Raises ValueError where what a
    method is compared with is missing.
    """
    columns = list(GAINS.values())
    references = finals[finals["kind"] == "base"].set_index(["base", "seed", "method"])[columns]
    methods = finals[finals["kind"] != "base"].reset_index(drop=True)
    wanted = pd.MultiIndex.from_frame(methods[["base", "seed", "against"]])
    if len(missing := wanted[~wanted.isin(references.index)]):
        base, seed, against = missing[0]
        raise ValueError(f"finals lacks {against!r} of base {base!r} and seed {seed}; allowed: whole contests")
    gained = methods[columns].to_numpy() - references.loc[wanted].to_numpy()
    kept = methods[["base", "method", "kind", "seed", "recall", "transfer_wrong_language"]]
    return pd.concat([kept, pd.DataFrame(gained, columns=list(GAINS))], axis=1)


def by_base(gained: pd.DataFrame, of: str = "transfer") -> dict[int, Float[np.ndarray, "base method"]]:
    """What is gained in every base by every method, seed by seed, methods in one order."""
    return {
        int(seed): rows.pivot(index="base", columns="method", values=of).to_numpy()
        for seed, rows in gained.groupby("seed")
    }


def order(gained: pd.DataFrame) -> Float[np.ndarray, " seed"]:
    """B5-order, seed by seed: Kendall's W of the methods' order by transfer gained, bases as raters."""
    return np.array([concordance(table) for table in by_base(gained).values()])


def order_by_chance(gained: pd.DataFrame, n_permutations: int = 999) -> Float[np.ndarray, " draw"]:
    """The mean over seeds of the same W, methods dealt out anew within every base and seed."""
    draw, tables = np.random.default_rng(0), list(by_base(gained).values())
    return np.array(
        [np.mean([concordance(draw.permuted(table, axis=1)) for table in tables]) for _ in range(n_permutations)]
    )


def means_of_seeds(gained: pd.DataFrame, method: str, of: str, base: str | None = None) -> Float[np.ndarray, " seed"]:
    """What a method gains in a base, or in the mean over all of them, seed by seed.

    Raises KeyError for a method or a base that is not there.
    """
    rows = gained[gained["method"] == method]
    if base is not None:
        rows = rows[rows["base"] == base]
    if rows.empty:
        has = ", ".join(sorted(set(gained["method"])) + sorted(set(gained["base"])))
        raise KeyError(f"method {method!r} of base {base!r} is not in the table; it has {has}")
    return rows.groupby("seed")[of].mean().to_numpy()


def early_less_late(finals: pd.DataFrame, method: str) -> Float[np.ndarray, " seed"]:
    """B5-early, seed by seed: transfer with a loss in the first half of training minus that in the second.

    `finals` are those of `designs.alignment.early_and_late`; the mean over their bases.
    """
    rows = finals[finals["method"] == method]
    wide = rows.pivot_table(index="seed", columns="when", values="transfer")
    return (wide["first half"] - wide["second half"]).to_numpy()


def worth(
    gained: Float[np.ndarray, " n"], facts: Sequence[float], by_facts: Sequence[float]
) -> Float[np.ndarray, " n"]:
    """As many added parallel facts as would bring the same: by lines between what `facts` of them bring, `by_facts`.

    Where more facts bring less than fewer do, the most so far counts. 0 where nothing is gained, infinity where it is
    more than all of them bring. Raises ValueError unless the first are 0 facts, which bring 0, and numbers rise.
    """
    number, brought = np.asarray(facts, dtype=float), np.asarray(by_facts, dtype=float)
    if number.ndim != 1 or number.shape != brought.shape or len(number) < 2:
        raise ValueError(f"facts, by_facts have {number.shape}, {brought.shape}; allowed: equal [level], two or more")
    if number[0] or brought[0] or (np.diff(number) <= 0).any():
        raise ValueError(f"facts={list(facts)}, first gain {brought[0]}; allowed: rising from 0, which bring 0")
    brought = np.maximum.accumulate(brought)
    rising = np.concatenate([[True], np.diff(brought) > 0])
    gained = np.asarray(gained, dtype=float)
    found = np.interp(gained, brought[rising], number[rising])
    return np.where(gained > brought[-1] + ROUNDING, np.inf, found)


def gains_at_inference(answers: pd.DataFrame, of: str = "transfer") -> pd.Series:
    """What each method brings at inference over the model as it is; index base, seed, method.

    `answers` stacks `crosslingual.transfer_at_inference` of several runs, labelled by base and seed; controls are left
    out. Raises ValueError where a run was not asked as it is.
    """
    own = answers[~answers["control"]].set_index(["base", "seed", "method"])[of]
    plain = own[own.index.get_level_values("method") == "none"].droplevel("method")
    runs = own.index.droplevel("method")
    if not runs.isin(plain.index).all():
        raise ValueError("answers lacks rows of the method 'none'; allowed: each run with it")
    return own.sub(plain.reindex(runs).to_numpy()).drop("none", level="method")


ASK_AT_HOME = ("translate-test", "majority vote")
"""Methods at inference that ask the home language, too, which knows: no repair of what is asked in another one."""


def most_at_inference(gained: pd.Series, bases: Sequence[str]) -> Float[np.ndarray, " seed"]:
    """The most that any method brings that does not ask at home, seed by seed: of means over bases.

    `gained` is what `gains_at_inference` gives.
    """
    here = gained[gained.index.get_level_values("base").isin(bases)]
    here = here[~here.index.get_level_values("method").isin(ASK_AT_HOME)]
    return here.groupby(["seed", "method"]).mean().groupby("seed").max().to_numpy()

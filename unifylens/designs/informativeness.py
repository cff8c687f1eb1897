"""Dials of how much the data tell about their language (notebook 07)."""

from __future__ import annotations

import numpy as np

from unifylens.config import Experiment
from unifylens.designs.common import Design, seeds, small
from unifylens.environment import profile
from unifylens.measures.information import entropy

INFORMATION_PARALLEL = 0.2

EXPOSURE_BALANCES = {
    "quick": (1.0, 0.6, 0.4, 0.2, 0.1),
    "full": (1.0, 0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.04, 0.02),
}
"""Exposure of a parallel fact's copy away from home, in units of a balanced one: from 50:50 to 99:1."""

LONGER_BALANCES = {"quick": (1.0, 0.4, 0.2), "full": (1.0, 0.6, 0.4, 0.2, 0.1, 0.04)}
"""Those that are trained three times as long, too: whether what transfers less only transfers later."""

LONGER = 3
"""How many times the steps."""

MATCHED_BALANCES = {"quick": (0.4,), "full": (0.6, 0.4, 0.3, 0.2)}
"""Those at which exposure and information are taken apart."""

INFORMATION_DIALS = {
    "tied objects": ("corpus.object_skew", {"quick": (0.0, 0.5, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0)}),
    "home by subject": ("corpus.home_bias", {"quick": (0.0, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0)}),
    "home by relation": ("corpus.relation_bias", {"quick": (0.0, 1.0), "full": (0.0, 0.25, 0.5, 0.75, 1.0)}),
    "share of parallel facts": ("corpus.parallel", {"quick": (0.1, 0.2), "full": (0.05, 0.1, 0.2, 0.3, 0.4)}),
}
"""Other dials that make data tell its language; exposure stays balanced."""


def informativeness() -> dict[str, Design]:
    """One dial of the data's information about its language at a time, by family; labels family, level, seed.

    All families share the dish with balanced copies. In `uneven exposure` the level is the exposure of a parallel
    fact's copies away from home, in units of a balanced copy's; `uneven exposure, longer` has `LONGER` times the
    steps. `same exposure` has, for some of these levels, both
    copies at that exposure; `same information` both at the exposure that gives the same I(fact; language).
    """
    base = small(**{"corpus.parallel": INFORMATION_PARALLEL})
    matched = MATCHED_BALANCES[profile()]
    families = {
        "uneven exposure": {b: base.replace(**{"corpus.exposure_balance": b}) for b in EXPOSURE_BALANCES[profile()]},
        "uneven exposure, longer": {
            b: base.replace(**{"corpus.exposure_balance": b, "train.steps": LONGER * base.train.steps})
            for b in LONGER_BALANCES[profile()]
        },
        "same exposure": {b: rare_copies(base, b) for b in matched},
        "same information": {b: rare_copies(base, as_informative(base, b)) for b in matched},
        **{
            family: {level: base.replace(**{dial: level}) for level in levels[profile()]}
            for family, (dial, levels) in INFORMATION_DIALS.items()
        },
    }
    return {
        family: [
            ({"family": family, "level": level, "seed": seed}, experiment.replace(seed=seed))
            for level, experiment in levels.items()
            for seed in seeds()
        ]
        for family, levels in families.items()
    }


def rare_copies(experiment: Experiment, exposure: float) -> Experiment:
    """The same experiment with all copies of parallel facts seen `exposure` times as often.

    Batches shrink by what is left out, to a whole number of examples, so that monolingual facts are seen as often as
    before in the same number of steps. Raises ValueError if the copies' exposure was moved before.
    """
    copies, alone = _copies_and_alone(experiment)
    size = round(experiment.train.batch_size * (exposure * copies + alone) / (copies + alone))
    return experiment.replace(**{"corpus.parallel_exposure": exposure, "train.batch_size": size})


def as_informative(experiment: Experiment, balance: float) -> float:
    """Exposure of balanced copies at which I(fact; language) is what `exposure_balance=balance` gives.

    Exact where the languages have equally many monolingual facts. Raises ValueError as `rare_copies` does.
    """
    copies, alone = _copies_and_alone(experiment)
    n = experiment.language.n_languages
    one_fact = np.array([balance + (1 - balance) * n, *[balance] * (n - 1)])
    unknown = entropy(one_fact) / np.log2(n) * copies / (copies + alone)  # of the language, as a share of log2(n)
    return float(unknown / (1 - unknown) * alone / copies)


def _copies_and_alone(experiment: Experiment) -> tuple[int, int]:
    """Number of parallel facts' copies, all equally frequent, and of monolingual facts."""
    corpus = experiment.corpus
    factors = {name: getattr(corpus, name) for name in ("exposure_balance", "copy_exposure", "parallel_exposure")}
    if moved := [f"{name}={factor}" for name, factor in factors.items() if factor != 1] or experiment.changes:
        raise ValueError(f"{moved}: copies must start equally frequent; allowed: 1 for all factors and no changes.")
    n_facts = experiment.world.n_subjects * experiment.world.n_relations
    n_parallel = round(corpus.parallel * n_facts) if corpus.n_parallel is None else corpus.n_parallel
    return n_parallel * experiment.language.n_languages, n_facts - n_parallel

"""Models whose answers are traced to training examples, and the same without some of these (notebook 17)."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import ArrayLike

from unifylens.config import Intervention
from unifylens.corpus.corpus import Corpus
from unifylens.designs.common import Design, seeds, small
from unifylens.seeds import rng
from unifylens.training.influence import examples

SHARED_BY_KIND = {"unified": 1.0, "between": 0.5, "separate": 0.0}
"""Share of subject words that are the same in both languages: all else is equal, parallel facts too."""

N_GROUPS, N_OF_GROUP = 3, 20
"""Prompts that are traced, in groups: each group loses its twins in a training of its own."""


def traced(**changes: Any) -> Design:
    """Unified and separate models and some between, with 12 checkpoints; `changes` are of all of them."""
    return [
        (
            {"kind": kind, "seed": seed},
            small(**{"train.n_checkpoints": 12, "language.shared_subjects": share, **changes}, seed=seed),
        )
        for kind, share in SHARED_BY_KIND.items()
        for seed in seeds()
    ]


def asked(corpus: Corpus, seed: int) -> Int[np.ndarray, "group prompt"]:
    """Prompts of facts never told in the language asked, by lot whether their answers are right or wrong."""
    held_out = rng(seed, "traced prompts").permutation(np.flatnonzero(~corpus.seen))
    return held_out[: N_GROUPS * N_OF_GROUP].reshape(N_GROUPS, N_OF_GROUP)


def twins(corpus: Corpus, prompts: ArrayLike) -> Int[np.ndarray, " prompt"]:
    """Where each prompt's twin, the fact in its home language, stands among `influence.examples(corpus)`.

    Raises ValueError for a prompt that is told itself: it has no single twin.
    """
    prompts = np.asarray(prompts)
    if (told := corpus.seen.ravel()[prompts]).any():
        raise ValueError(f"prompts: row {prompts[told][0]} is told itself; allowed: rows that are held out.")
    fact = prompts % corpus.n_facts
    return np.searchsorted(examples(corpus), corpus.home[fact] * corpus.n_facts + fact)


def same_answer(corpus: Corpus, prompts: ArrayLike) -> Bool[np.ndarray, "example prompt"]:
    """Examples in the language of a prompt's twin that have its relation and its answer, but another subject."""
    language, fact = np.divmod(examples(corpus)[:, None], corpus.n_facts)
    due, world = np.asarray(prompts)[None] % corpus.n_facts, corpus.world
    alike = (world.relation[fact] == world.relation[due]) & (world.object[fact] == world.object[due])
    return alike & (language == corpus.home[due]) & (fact != due)


def left_out(design: Design) -> Design:
    """Every experiment again without one group's twins, for each group, and once without as many random examples.

    None of the latter is a twin of any group. Only the last checkpoint is kept.
    """
    found = []
    for labels, experiment in design:
        corpus = Corpus.build(experiment)
        rows = examples(corpus)
        own = [rows[twins(corpus, group)] for group in asked(corpus, experiment.seed)]
        others = np.setdiff1d(rows, np.concatenate(own))
        by_lot = rng(experiment.seed, "left out by lot").permutation(others)[:N_OF_GROUP]
        for number, some in enumerate([*own, by_lot]):
            loss = Intervention(name="leave_out", rows=tuple(np.sort(some).tolist()))
            without = experiment.replace(interventions=(loss,), **{"train.n_checkpoints": 1})
            left = {"left_out": "twins" if number < N_GROUPS else "random", "number": number}
            found.append(({**labels, **left}, without))
    return found

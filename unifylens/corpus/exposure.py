"""Who sees what, how often: what the dials of a corpus mean."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from jaxtyping import Float, Int

from unifylens.config import CorpusChange, CorpusConfig, Experiment, LateLanguages
from unifylens.corpus.world import World
from unifylens.seeds import rng


class Copy(IntEnum):
    """What one fact is in one language."""

    MONOLINGUAL = 0
    """Seen in this language alone."""
    MAJORITY = 1
    """Of a parallel fact, in its home language."""
    MINORITY = 2
    """Of a parallel fact, away from home."""
    HELD_OUT = 3
    """Never seen in this language."""


KINDS = tuple(copy.name.lower().replace("_", "-") for copy in Copy)
"""Names of the kinds of copies, in the order of their codes."""


def assign(
    world: World, n_languages: int, config: CorpusConfig, seed: int
) -> tuple[Int[np.ndarray, " fact"], Float[np.ndarray, "language fact"]]:
    """Home language of every fact, and its exposure in every language, summing to one: what the dials mean.

    Late languages leave all that is dealt out among the first ones as it is without them. Every random order is drawn
    before a dial cuts it, so that moving one dial moves only the facts it must.
    """
    n, late = world.n_facts, config.late
    n_late = 0 if late is None else late.n
    n_languages -= n_late
    if config.parallel_unit == "fact":
        order = rng(seed, "parallel facts").permutation(n)
    else:
        rank = rng(seed, "parallel subjects").permutation(world.n_subjects)
        order = np.argsort(rank[world.subject], kind="stable")
    n_parallel = round(config.parallel * n) if config.n_parallel is None else config.n_parallel
    if n_parallel > n:
        raise ValueError(f"corpus.n_parallel={n_parallel} is more than the world's {n} facts; allowed: 0 to {n}.")
    parallel = np.zeros(n, dtype=bool)
    parallel[order[:n_parallel]] = True

    home = rng(seed, "home").permutation(n) % n_languages
    subject_home = rng(seed, "subject home").permutation(world.n_subjects) % n_languages
    relation_home = rng(seed, "relation home").permutation(world.n_relations) % n_languages
    by_relation = rng(seed, "decided by relation").random(n) < config.relation_bias
    by_subject = rng(seed, "decided by subject").random(n) < config.home_bias
    by_object = (rng(seed, "decided by object").random(n) < config.object_skew) & ~parallel
    home = np.where(by_relation, relation_home[world.relation], home)
    home = np.where(by_subject, subject_home[world.subject], home)
    home = np.where(by_object, object_homes(world, n_languages, seed)[world.object], home)

    at_home = np.arange(n_languages)[:, None] == home
    balance = config.exposure_balance
    copies = balance + (1 - balance) * n_languages * at_home  # a parallel fact weighs one unit per language
    copies *= np.where(at_home, 1.0, config.copy_exposure)
    weights = np.where(parallel, copies * config.parallel_exposure, at_home)
    if late is not None:
        rows = np.tile(_told_late(late, home, seed) * weights.sum() / n_languages, (n_late, 1))
        weights = np.concatenate([weights, rows])
    if config.language_exposure is not None:
        weights = weights * np.array(config.language_exposure)[:, None]
    return home, weights / weights.sum()


def _told_late(late: LateLanguages, home: Int[np.ndarray, " fact"], seed: int) -> Float[np.ndarray, " fact"]:
    """What share of a late language every fact has: equal ones of those told there, the first in a random order.

    Raises ValueError where none is.
    """
    order = rng(seed, "facts told in late languages").permutation(len(home))
    if late.of is not None:
        order = order[home[order] == late.of]
    n_told = round(late.share * len(order))
    if not n_told:
        raise ValueError(
            f"corpus.late.share={late.share} of {len(order)} facts is none; allowed: a share that tells at least one."
        )
    told = np.zeros(len(home))
    told[order[:n_told]] = 1 / n_told
    return told


def object_homes(world: World, n_languages: int, seed: int) -> Int[np.ndarray, " object"]:
    """The language that each object is tied to by a skew: every relation's objects are dealt out evenly."""
    homes = np.empty(world.n_objects, dtype=int)
    for relation in range(world.n_relations):
        objects = np.flatnonzero(world.object_relation == relation)
        homes[objects] = rng(seed, f"object home {relation}").permutation(len(objects)) % n_languages
    return homes


def parallel_window(experiment: Experiment, start: int, stop: int) -> Experiment:
    """The same experiment with its parallel copies only in steps `[start, stop)`, at equal total exposure.

    Outside the window every fact is seen in its home language only. Inside, copies in other languages are seen
    more often, so that over the run every copy (and every home copy) is expected as often as in `experiment`.
    Raises ValueError if the window is too short for that, is empty, or the parallel facts are not balanced.
    """
    corpus, steps = experiment.corpus, experiment.train.steps
    if experiment.real is not None:
        raise ValueError("parallel_window cannot count the facts of a real world; allowed: experiments with real=None.")
    if not 0 <= start < stop <= steps:
        raise ValueError(f"start={start}, stop={stop}: allowed is 0 <= start < stop <= train.steps={steps}.")
    if corpus.late is not None:
        raise ValueError(
            f"corpus.late={corpus.late!r}: parallel_window cannot keep every copy's exposure; allowed: None."
        )
    factors = {name: getattr(corpus, name) for name in ("exposure_balance", "copy_exposure", "parallel_exposure")}
    if corpus.language_exposure is not None:
        raise ValueError(
            f"corpus.language_exposure={corpus.language_exposure}: parallel_window cannot keep every copy's exposure; "
            "allowed: None."
        )
    if any(factor != 1.0 for factor in factors.values()) or experiment.changes:
        raise ValueError(
            f"{', '.join(f'{name}={factor}' for name, factor in factors.items())}, changes at steps "
            f"{[change.step for change in experiment.changes]}: parallel_window cannot keep every copy's exposure; "
            "allowed: exposure_balance=1, copy_exposure=1, parallel_exposure=1 and no changes."
        )
    n_facts = experiment.world.n_subjects * experiment.world.n_relations
    n_parallel = round(corpus.parallel * n_facts) if corpus.n_parallel is None else corpus.n_parallel
    if not n_parallel:
        raise ValueError("corpus.parallel=0: there are no parallel copies to move; allowed: more than 0.")
    copies = n_parallel * (experiment.language.n_languages - 1) / n_facts  # in units of the home copies
    inside = copies / (1 + copies) * steps / (stop - start)  # share of the window's examples
    if inside >= 1:
        raise ValueError(
            f"start={start}, stop={stop}: the copies are {copies / (1 + copies):.3f} of all examples and do not fit "
            f"into {stop - start} of {steps} steps; allowed: more than {copies / (1 + copies) * steps:.0f} steps."
        )
    window = corpus.model_copy(update={"copy_exposure": inside / (1 - inside) / copies})
    alone = corpus.model_copy(update={"copy_exposure": 0.0})
    pieces = [(0, start, alone), (start, stop, window), (stop, steps, alone)]
    stages = [(begin, piece) for begin, end, piece in pieces if begin < end]
    changes = tuple(CorpusChange(step=step, corpus=piece) for step, piece in stages[1:])
    return Experiment.model_validate({**dict(experiment), "corpus": stages[0][1], "changes": changes})

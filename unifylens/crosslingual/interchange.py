"""Interchange across languages in the dish: pairs of prompts, the four answers they may give, and language swaps.

What is patched here with `unifylens.patching` is chosen with the corpus' ground truth: which fact was never seen in
which language, and what every answer means.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens import patching
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual.evaluate import main_layer, model_and_corpus, run_prompts, states
from unifylens.crosslingual.roles import prompts
from unifylens.measures.answers import FOUR_ANSWERS as ANSWERS
from unifylens.patching import hooks, subspaces
from unifylens.patching.edits import Edit
from unifylens.patching.metrics import Metric
from unifylens.patching.prompts import Prompts
from unifylens.patching.stream import Model
from unifylens.patching.subspaces import Subspace
from unifylens.seeds import rng


@dataclass(frozen=True)
class Pairs:
    """Prompts to patch from one language into another: row i of `source` into row i of `target`."""

    corpus: Corpus
    source_language: int
    target_language: int
    source_fact: Int[np.ndarray, " pair"]
    """Facts that the source prompts ask for."""
    target_fact: Int[np.ndarray, " pair"]
    due_fact: Int[np.ndarray, " pair"]
    """Facts whose object counts as the source's: of its subject, and its own relation or the target's."""

    @property
    def source(self) -> Int[Tensor, "pair pos"]:
        """Source prompts."""
        return self.prompts(self.source_language)

    @property
    def target(self) -> Int[Tensor, "pair pos"]:
        """Target prompts."""
        return self.corpus.prompts(self.target_language * self.corpus.n_facts + self.target_fact)

    def with_roles(self) -> tuple[Prompts, Prompts]:
        """Target and source prompts with where their roles stand, as `crosslingual.prompts` gives them."""
        n = self.corpus.n_facts
        target, source = self.target_language * n + self.target_fact, self.source_language * n + self.source_fact
        return prompts(self.corpus, target), prompts(self.corpus, source)

    def prompts(self, language: int) -> Int[Tensor, "pair pos"]:
        """The source facts asked in another language, for means over languages."""
        return self.corpus.prompts(language * self.corpus.n_facts + self.source_fact)

    def answers(self) -> dict[str, Int[Tensor, " pair"]]:
        """Token of each of the four `ANSWERS`."""
        n, answers = self.corpus.n_facts, self.corpus.answers
        a, b = self.source_language * n, self.target_language * n
        tokens = (
            answers[f] for f in (b + self.due_fact, a + self.due_fact, b + self.target_fact, a + self.target_fact)
        )
        return dict(zip(ANSWERS, tokens, strict=True))

    def probabilities(self) -> dict[str, Metric]:
        """Probability of each of the four answers."""
        return {name: patching.probability(token) for name, token in self.answers().items()}

    def shares(self) -> dict[str, Metric]:
        """Share of pairs that answer each of the four."""
        return {name: patching.answered(token) for name, token in self.answers().items()}

    def shuffled(self, seed: int = 0) -> Pairs:
        """Control: every pair keeps its prompts and gets the due fact of another pair, of its relation if there is one.

        Raises ValueError for one pair.
        """
        if len(self.due_fact) < 2:
            raise ValueError("one pair cannot be shuffled; allowed: at least 2.")
        relation = self.corpus.world.relation[self.due_fact]
        order = rng(seed, "shuffled pairs").permutation(len(self.due_fact))
        groups = [order[relation[order] == r] for r in np.unique(relation)]
        alone = [pair for group in groups if len(group) == 1 for pair in group]
        if len(alone) == 1:  # joins the largest of the others
            groups = [group for group in groups if len(group) > 1]
            groups.sort(key=len)
            groups[-1] = np.append(groups[-1], alone)
        else:
            groups = [*(group for group in groups if len(group) > 1), np.array(alone, dtype=int)]
        due = self.due_fact.copy()
        for group in groups:
            due[group] = self.due_fact[np.roll(group, 1)]
        return replace(self, due_fact=due)


def pairs(
    corpus: Corpus,
    source_language: int | str = 0,
    target_language: int | str = 1,
    *,
    moved: str = "fact",
    known: str = "source",
    n_pairs: int = 500,
    seed: int = 0,
) -> Pairs:
    """Random pairs whose due fact was learnt in the source language and never seen in the target language.

    With `known="target"` it is the other way round: learnt in the target language and never seen in the source's.
    `moved="fact"`: the due fact is the source fact; the target asks for the same relation of another subject. With
    `moved="subject"` the source prompt asks another relation: the due fact is of its subject and the target's relation.
    Target facts are seen in the target language and have another object. Where both languages are one (a ceiling), the
    due fact is seen in it.

    Raises ValueError for a language that does not exist, an unknown `moved` or `known`, or no such facts.

    >>> pairs = ul.interchange.pairs(run.corpus, source_language=0, target_language=1, n_pairs=5)
    >>> pairs.source.shape == pairs.target.shape, list(pairs.answers())[:2]
    (True, ['source object, target language', 'source object, source language'])
    """
    source_language = corpus.language_number(source_language, "source_language")
    target_language = corpus.language_number(target_language, "target_language")
    if moved not in ("fact", "subject"):
        raise ValueError(f"moved={moved!r}; allowed: 'fact', 'subject'.")
    if known not in ("source", "target"):
        raise ValueError(f"known={known!r}; allowed: 'source', 'target'.")
    home = source_language if known == "source" else target_language
    world, draw = corpus.world, rng(seed, f"pairs {source_language} {target_language} {moved}")
    due = np.flatnonzero(~corpus.parallel & (corpus.home == home))
    in_target = np.flatnonzero(corpus.seen[target_language])
    if not len(due) or world.n_relations < 1 + (moved == "subject"):
        raise ValueError(
            f"no facts to patch from language {source_language}: none is seen in {home} alone, or too few relations."
        )
    due = draw.permutation(due)[:n_pairs]
    by_relation = [draw.permutation(in_target[world.relation[in_target] == r]) for r in range(world.n_relations)]
    target = np.array([_another(by_relation[world.relation[f]], world.object, f, draw) for f in due])
    kept = target >= 0
    due, target = due[kept], target[kept]
    source = due
    if moved == "subject":
        fact_of = np.full((world.n_subjects, world.n_relations), -1)
        fact_of[world.subject, world.relation] = np.arange(world.n_facts)
        other = (world.relation[due] + draw.integers(1, world.n_relations, len(due))) % world.n_relations
        source = fact_of[world.subject[due], other]
    if not len(due):
        raise ValueError("no target fact with another object of the same relation is seen in the target language.")
    return Pairs(corpus, source_language, target_language, source, target, due)


def _another(candidates: np.ndarray, objects: np.ndarray, fact: int, draw: np.random.Generator) -> int:
    """A random fact of another object, or -1."""
    for candidate in draw.choice(candidates, 20) if len(candidates) else ():
        if objects[candidate] != objects[fact]:
            return int(candidate)
    return -1


def subject_patch(
    model: Model,
    corpus: Corpus,
    positions: Sequence[int],
    *,
    layers: Sequence[int] | None = None,
    n_pairs: int = 100,
    seed: int = 0,
) -> pd.DataFrame:
    """Patch what is known of the subject from another language's prompt: is its object named, in the target language?

    `positions` are those at which the subject is known before its relation is read. The prompts differ in subject,
    relation and language; the fact of source subject and target relation was never seen in the target language.

    A row a layer (numbered as in `unifylens.states`): `right`, share of pairs that name that fact's object in the
    target language; `asked`, the share that do when the target language is asked for it straight, which is what a swap
    of the subject's word alone gives; controls `shuffled` (another pair's object) and `ceiling` (source and target in
    one language, in which the fact is known). And `known`: the same for facts that the target language has seen and the
    source's never, so that only a state that serves in another language than its own is needed, and no fact that is
    carried over. Means over all ordered pairs of languages, `n_pairs` of each. Raises ValueError as `pairs` does.
    """
    model, corpus = model_and_corpus(model, corpus)
    layers = range(model.cfg.n_layers + 1) if layers is None else layers
    edits = [
        patching.patch_at(patching.residual(model, layer), {"layer": layer}, positions=positions) for layer in layers
    ]

    def right(a: int, b: int, known: str = "source") -> pd.DataFrame:
        some = pairs(corpus, a, b, moved="subject", known=known, n_pairs=n_pairs, seed=seed)
        metrics = {"right": some.shares()[ANSWERS[0]], "shuffled": some.shuffled(seed).shares()[ANSWERS[0]]}
        found = patching.experiment(model, some.target, edits, metrics, source=some.source, progress=False)
        return found.assign(asked=_asked(model, Swap(corpus, a, b, some.due_fact)))

    def mean(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
        return pd.concat(tables).groupby("layer").mean()

    languages = range(corpus.n_languages)
    across = mean(right(a, b) for a, b in permutations(languages, 2))
    known = mean(right(a, b, "target") for a, b in permutations(languages, 2))
    within = mean(right(a, a) for a in languages)
    return across.assign(known=known["right"], ceiling=within["right"]).reset_index()


# --- language swap -------------------------------------------------------------------------------------------

SHIFTS = ("all", "relation", "object")
"""Facts that share one shift from language to language: all, those of a relation, those of an object."""


def halves(corpus: Corpus, seed: int = 0) -> tuple[Int[np.ndarray, " fact"], Int[np.ndarray, " fact"]]:
    """The monolingual facts in two random halves: to fit on, and to test on. Raises ValueError for fewer than two."""
    facts = rng(seed, "fit or test").permutation(np.flatnonzero(~corpus.parallel))
    if len(facts) < 2:
        raise ValueError(
            f"the corpus has {len(facts)} monolingual facts; allowed: at least 2, to fit on and to test on."
        )
    return np.sort(facts[: len(facts) // 2]), np.sort(facts[len(facts) // 2 :])


def language_swap(
    model: Model,
    corpus: Corpus,
    layer: int | None = None,
    *,
    by: str = "relation",
    seed: int = 0,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Shift the state at the last position from one language to another: does the answer change language, not object?

    The shift is the difference of the two languages' mean states over the fit facts (half of the monolingual ones) of
    the same group (`by`, one of `SHIFTS`). Tested on those of the other half whose group has fit facts: learnt in the
    source language and never seen in the target language. `layer` is numbered as in `unifylens.states` (None: where the
    unification score is taken).

    A row an ordered pair of languages. Shares of the `n` facts: `right` object in the target language; `flipped`, any
    of the relation's objects there; `unchanged` answers. Controls, shares of right answers: `random`, a shift of random
    direction and the same length; `mismatched`, the next group's shift, from language to language as well.
    And `others transfer`: of the fit facts, learnt in the source language as well, the share that is right when the
    target language is asked straight; nan without any. It is of other facts than the swap, so that the two do not go
    together for being about the same ones. Raises ValueError for an unknown `by` or layer.

    >>> table = ul.interchange.language_swap(run.model, run.corpus)
    >>> table[["right", "flipped", "unchanged", "random"]].shape
    (2, 4)
    """
    if by not in SHIFTS:
        raise ValueError(f"by={by!r}; allowed: {', '.join(SHIFTS)}.")
    model, corpus = model_and_corpus(model, corpus)
    layer = main_layer(model.cfg.n_layers) if layer is None else layer
    name, world, n = patching.residual(model, layer), corpus.world, corpus.n_facts
    fit, test = halves(corpus, seed)
    group = {"all": np.zeros(n, dtype=int), "relation": world.relation, "object": world.object}[by]
    fitted, of_fit = np.unique(group[fit], return_inverse=True)
    test = test[np.isin(group[test], fitted)]
    shifts = subspaces.language_shifts(states(model, corpus, fit)[layer], torch.from_numpy(of_fit))
    others = {(swap.source, swap.target): swap for swap in swaps(corpus, fit)}
    records = []
    for swap in swaps(corpus, test):
        own = torch.from_numpy(np.searchsorted(fitted, group[swap.facts]))
        by_group = shifts[:, swap.target] - shifts[:, swap.source]
        vectors = {
            "swap": by_group[own],
            "random": subspaces.random_like(by_group, seed)[own],
            "mismatched": by_group[(own + 1) % len(shifts)],
        }
        edits = [patching.steer_at(name, {"shift": kind}, v, positions=-1) for kind, v in vectors.items()]
        by_shift = patching.experiment(
            model, swap.prompts(swap.source), edits, swap.shares(), batch_size=batch_size, progress=False
        ).set_index("shift")
        records.append(
            {
                **swap.labels(),
                **by_shift.loc["swap"],
                "random": by_shift.loc["random", "right"],
                "mismatched": by_shift.loc["mismatched", "right"] if len(shifts) > 1 else float("nan"),
                "others transfer": _asked(model, others.get((swap.source, swap.target))),
            }
        )
    return pd.DataFrame(records)


def _asked(model: Model, swap: Swap | None) -> float:
    """Share of facts whose answer is right in the target language, asked straight."""
    if swap is None:
        return float("nan")
    logits, _ = run_prompts(model, swap.prompts(swap.target))
    due = swap.corpus.answers[swap.target * swap.corpus.n_facts + swap.facts]
    return float((logits.argmax(-1) == due).double().mean())


def subspace_swap(
    model: Model,
    corpus: Corpus,
    spaces: Mapping[str, Subspace],
    layer: int | None = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Take a subspace's component from the same fact asked in the other language, at the last position.

    Facts, layers and shares as in `language_swap`; fit `spaces` on the first of `halves`. A row a subspace and ordered
    pair of languages: space, rank, source, target, n, right, flipped, unchanged.
    """
    model, corpus = model_and_corpus(model, corpus)
    name = patching.residual(model, main_layer(model.cfg.n_layers) if layer is None else layer)
    edits = [
        patching.patch_at(name, {"space": label, "rank": space.rank}, positions=-1, subspace=space)
        for label, space in spaces.items()
    ]
    tables = []
    for swap in swaps(corpus, halves(corpus, seed)[1]):
        prompts = swap.prompts(swap.source), swap.prompts(swap.target)
        by_space = patching.experiment(
            model, prompts[0], edits, swap.shares(), source=prompts[1], batch_size=batch_size, progress=False
        )
        tables.append(by_space.assign(**swap.labels()))
    return pd.concat(tables, ignore_index=True)


def ablate(
    model: Model,
    corpus: Corpus,
    spaces: Mapping[str, Subspace],
    layer: int | None = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
) -> pd.DataFrame:
    """Set a subspace's component at the last position to its mean over facts and languages: what is left?

    Asked are the second of `halves`. A row a subspace: space, rank, `home` recall (facts in their own language) and
    `transfer` (the same facts in the other languages), shares of right answers; and `wrong language`, the right object
    in another language, over both.
    """
    model, corpus = model_and_corpus(model, corpus)
    layer = main_layer(model.cfg.n_layers) if layer is None else layer
    fit, test = halves(corpus, seed)
    name, around = patching.residual(model, layer), states(model, corpus, fit)[layer].mean((0, 1))
    rows = corpus.rows(test)
    language, fact = np.divmod(rows, corpus.n_facts)
    home = torch.from_numpy(corpus.home[fact] == language)
    due = torch.from_numpy(corpus.world.object[fact])
    right, meant = corpus.answers[rows], corpus.token_object

    metrics = {
        "home": _share(right, home),
        "transfer": _share(right, ~home),
        "wrong language": Metric(lambda x, d, r: (meant[x.argmax(-1)] == d) & (x.argmax(-1) != r), due, right),
    }
    edits = [
        Edit(
            {"space": label, "rank": space.rank},
            lambda batch, space=space: [
                (name, partial(hooks.project_out, subspace=space, around=around, positions=-1))
            ],
        )
        for label, space in spaces.items()
    ]
    return patching.experiment(model, corpus.prompts(rows), edits, metrics, batch_size=batch_size, progress=False)


def own_objects(
    model: Model, corpus: Corpus, ranks: Sequence[int], layer: int | None = None, *, seed: int = 0
) -> pd.DataFrame:
    """Ablate the object directions that one language has and the others do not: who loses its facts?

    For each language, on the facts it alone has seen: the directions in which its objects (within relations) differ by
    more than those of the other languages do at home (`subspaces.beyond`). In two separate copies they carry one of
    them; where facts have one representation, no direction is a language's own. Component, states and facts asked are
    those of `ablate`.

    A row a language, space (`own`, or a `random` one of the same rank) and rank (0: nothing is ablated): shares of
    right answers to its own facts at `home`, to the same facts in the other languages (`transfer`), and to the other
    languages' facts at their home (`elsewhere`). Raises ValueError where a language has no facts of its own.
    """
    model, corpus = model_and_corpus(model, corpus)
    layer = main_layer(model.cfg.n_layers) if layer is None else layer
    fit, test = halves(corpus, seed)
    name, fitted = patching.residual(model, layer), states(model, corpus, fit)[layer]
    world, around = corpus.world, fitted.mean((0, 1))
    differences = []
    for language in range(corpus.n_languages):
        own = corpus.home[fit] == language
        if not own.any() or not (corpus.home[test] == language).any():
            raise ValueError(f"language {language} alone has seen no fact to fit on, or none to test on.")
        groups = world.object[fit[own]], world.relation[fit[own]]
        differences.append(subspaces.group_differences(fitted[language, own][None], *groups))
    rows = corpus.rows(test)
    asked, fact = np.divmod(rows, corpus.n_facts)
    home, right = corpus.home[fact], corpus.answers[rows]
    tables = []
    for language, own in enumerate(differences):
        groups = {
            "home": (home == language) & (asked == language),
            "transfer": (home == language) & (asked != language),
            "elsewhere": (home != language) & (asked == home),
        }
        others = torch.cat([other for k, other in enumerate(differences) if k != language])
        spaces = {("own", k): subspaces.beyond(own, others, k) for k in ranks}
        spaces |= {("random", k): subspaces.random(fitted.shape[-1], k, seed) for k in ranks}
        edits = [Edit({"space": "none", "rank": 0}, lambda batch: [])]
        edits += [
            Edit(
                {"space": kind, "rank": rank},
                lambda batch, space=space: [
                    (name, partial(hooks.project_out, subspace=space, around=around, positions=-1))
                ],
            )
            for (kind, rank), space in spaces.items()
        ]
        metrics = {label: _share(right, torch.from_numpy(chosen)) for label, chosen in groups.items()}
        found = patching.experiment(model, corpus.prompts(rows), edits, metrics, progress=False)
        tables.append(found.assign(language=corpus.languages[language].name))
    return pd.concat(tables, ignore_index=True)


def _share(right: Int[Tensor, " row"], of: Tensor) -> Metric:
    """Right answers among some rows, as a mean over all."""
    weight = of.double() / of.double().mean()
    return Metric(lambda logits, token, w: (logits.argmax(-1) == token) * w, right, weight)


@dataclass(frozen=True)
class Swap:
    """Facts learnt in one language and never seen in another, whose answers shall change language."""

    corpus: Corpus
    source: int
    target: int
    facts: Int[np.ndarray, " fact"]

    def prompts(self, language: int) -> Int[Tensor, "fact pos"]:
        """The facts asked in a language."""
        return self.corpus.prompts(language * self.corpus.n_facts + self.facts)

    def labels(self) -> dict[str, object]:
        """Names of the two languages, and the number of facts."""
        names = [self.corpus.languages[i].name for i in (self.source, self.target)]
        return {"source": names[0], "target": names[1], "n": len(self.facts)}

    def shares(self) -> dict[str, Metric]:
        """Shares of facts: right object in the target language; any of the relation's objects there; unchanged."""
        corpus, n = self.corpus, self.corpus.n_facts
        relation = torch.from_numpy(corpus.world.relation[self.facts])
        return {
            "right": patching.answered(corpus.answers[self.target * n + self.facts]),
            "flipped": patching.answered_among(corpus.choices[self.target, relation]),
            "unchanged": patching.answered(corpus.answers[self.source * n + self.facts]),
        }


def swaps(corpus: Corpus, facts: ArrayLike | Tensor) -> list[Swap]:
    """Every ordered pair of languages, with those of the facts (`Corpus.fact_numbers`) whose home is the first."""
    facts = corpus.fact_numbers(facts)
    every = [Swap(corpus, a, b, facts[corpus.home[facts] == a]) for a, b in permutations(range(corpus.n_languages), 2)]
    return [swap for swap in every if len(swap.facts)]

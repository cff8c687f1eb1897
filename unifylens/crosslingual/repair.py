"""Two repairs of a model that lost transfer: of its output bias alone, and of what its states say of the fact alone.

At the last position before the unembedding a state is the mean of its language and relation, which holds how likely
each answer is there whatever the subject, and a deviation, which holds the fact. One repair changes what the mean makes
likely, the other puts in the deviation of another model; neither touches what the other changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unifylens import patching
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual.evaluate import Trained, model_and_corpus, states
from unifylens.patching.metrics import Metric
from unifylens.seeds import rng

RIDGE = 0.01
"""Of the map from one model's deviations to the other's, in units of their mean variance."""

REPAIRS = ("unrepaired", "bias", "states", "bias shuffled", "states shuffled", "due shuffled", "bias, due shuffled")


def repairs(run: Trained, donor: Trained, *, seed: int = 0) -> dict[str, float]:
    """Share of right answers to facts that neither model saw in the language asked, after each repair of `run`.

    Whatever is estimated on held-out facts is estimated on one half of them and tested on the other, both ways.

    - `unrepaired`: what the model says.
    - `bias`: to the logits of a relation's objects in a language, a fixed vector is added that makes their means over
      the other half's facts equal. No due answer is used.
    - `states`: the state at the last position after the last block keeps its mean of the language and relation (over
      the other half), and gets its deviation from the donor, by a linear map (ridge) of deviations. The map is fitted
      in each language on facts that both models saw there.
    - `bias shuffled`: the same vectors, their entries shuffled among the relation's objects.
    - `states shuffled`: the same map fitted with facts shuffled within their relation.
    - `due shuffled`, `bias, due shuffled`: `unrepaired` and `bias` where another fact's object of the relation is due:
      what guesses gain by a bias.

    The models need the same facts, in any words. Raises ValueError if they differ in their facts, answers have several
    tokens, a language lacks facts that both saw or facts that neither saw, or a relation has a single one of these.
    """
    model, corpus = model_and_corpus(run)
    giver, other = model_and_corpus(donor)
    _check(corpus, other)
    every, n, relation = np.arange(corpus.n_facts), corpus.n_facts, corpus.world.relation
    layer = model.cfg.n_layers
    own, given = (states(m, c, every)[-1].double() for m, c in ((model, corpus), (giver, other)))
    seen, held_out = corpus.seen & other.seen, ~corpus.seen & ~other.seen
    found = []
    for language in range(corpus.n_languages):
        draw = rng(seed, f"repairs {language}")
        known = np.flatnonzero(seen[language])
        if not len(known):
            raise ValueError(f"language {language}: both models saw no fact there; allowed: at least one, for the map.")
        mean, its = (Means.of(x[language], known, relation) for x in (own, given))
        apart, its_apart = mean.apart(own[language], known), its.apart(given[language], known)
        maps = {
            "states": ridge(its_apart, apart),
            "states shuffled": ridge(its_apart, apart[_shuffled(relation[known], draw)]),
        }
        asked = np.flatnonzero(held_out[language])
        if not len(asked):
            raise ValueError(f"language {language}: no fact is held out there for both models; allowed: at least two.")
        for fit, test in _halves(asked, relation, draw):
            rows, of = language * n + test, torch.from_numpy(relation[test])
            bias = output_bias(patching.last_logits(model, corpus.prompts(language * n + fit)), corpus, language, fit)
            mixed = bias.clone()
            for r, allowed in enumerate(corpus.choices[language]):
                tokens = allowed.nonzero()[:, 0]
                mixed[r, tokens] = bias[r, tokens[torch.from_numpy(draw.permutation(len(tokens)))]]
            due = corpus.answers[rows]
            shuffled = due[_shuffled(relation[test], draw)]
            shares = {
                "unrepaired": _right(due),
                "bias": _right(due, bias[of]),
                "bias shuffled": _right(due, mixed[of]),
                "due shuffled": _right(shuffled),
                "bias, due shuffled": _right(shuffled, bias[of]),
            }
            mean, its = (Means.of(x[language], fit, relation) for x in (own, given))
            apart, its_apart = mean.apart(own[language], test), its.apart(given[language], test)
            edits = [patching.UNEDITED] + [
                patching.steer_at(
                    patching.residual(model, layer), {"map": name}, (its_apart @ fitted - apart).float(), positions=-1
                )
                for name, fitted in maps.items()
            ]
            table = patching.experiment(model, corpus.prompts(rows), edits, shares, progress=False)
            by_map = dict(zip(("", *maps), table["unrepaired"], strict=True))
            one = {name: table[name].iloc[0] for name in shares} | {name: by_map[name] for name in maps}
            found.append((len(test), [one[name] for name in REPAIRS]))
    weights, values = zip(*found, strict=True)
    return dict(zip(REPAIRS, np.average(values, axis=0, weights=weights).tolist(), strict=True))


def output_bias(
    logits: Float[Tensor, "row vocab"], corpus: Corpus, language: int, facts: Int[np.ndarray, " row"]
) -> Float[Tensor, "relation vocab"]:
    """By relation, what to add to logits in a language so that the relation's objects have equal means over the facts.

    Zero for all other tokens: how likely the relation's objects are together stays.
    """
    bias = torch.zeros(corpus.world.n_relations, logits.shape[1])
    relation = torch.from_numpy(corpus.world.relation[facts])
    for r in relation.unique().tolist():
        tokens = corpus.choices[language, r].nonzero()[:, 0]
        means = logits[relation == r][:, tokens].double().mean(0)
        bias[r, tokens] = (means.mean() - means).float()
    return bias


def ridge(x: Float[Tensor, "row from"], y: Float[Tensor, "row to"]) -> Float[Tensor, "from to"]:
    """The linear map of x to y, least squares with `RIDGE`."""
    gram = x.T @ x
    return torch.linalg.solve(gram + RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=x.dtype), x.T @ y)


class Means(NamedTuple):
    """Mean states of some facts by relation."""

    by_relation: Float[Tensor, "relation d_model"]
    relation: Int[Tensor, " fact"]

    @classmethod
    def of(cls, state: Float[Tensor, "fact d_model"], facts: np.ndarray, relation: np.ndarray) -> Means:
        """Means over `facts`, of all that have states; nan for a relation without any."""
        index = torch.from_numpy(relation)
        sums = state.new_zeros(int(index.max()) + 1, state.shape[1]).index_add_(0, index[facts], state[facts])
        return cls(sums / index[facts].bincount(minlength=len(sums))[:, None], index)

    def apart(self, state: Float[Tensor, "fact d_model"], facts: np.ndarray) -> Float[Tensor, "fact d_model"]:
        """How far the states of some facts are from the mean of their relation."""
        return state[facts] - self.by_relation[self.relation[facts]]


def _right(due: Int[Tensor, " row"], bias: Float[Tensor, "row vocab"] | None = None) -> Metric:
    if bias is None:
        return patching.answered(due)
    return Metric(lambda logits, due, bias: (logits + bias).argmax(-1) == due, due, bias)


def _shuffled(group: Int[np.ndarray, " row"], draw: np.random.Generator) -> Int[np.ndarray, " row"]:
    """Rows in a random order within their group."""
    order = np.arange(len(group))
    for name in np.unique(group):
        rows = np.flatnonzero(group == name)
        order[rows] = draw.permutation(rows)
    return order


def _halves(
    facts: Int[np.ndarray, " fact"], relation: Int[np.ndarray, " fact"], draw: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Facts to fit on and to test on, both ways, halves drawn within relations."""
    number = np.zeros(len(facts), dtype=int)
    for name in np.unique(relation[facts]):
        rows = draw.permutation(np.flatnonzero(relation[facts] == name))
        if len(rows) < 2:
            raise ValueError(f"relation {name} has one held-out fact; allowed: two or more, to fit and to test.")
        number[rows[::2]] = 1
    for fit in (0, 1):
        yield facts[number == fit], facts[number != fit]


def _check(corpus: Corpus, other: Corpus) -> None:
    one, two = corpus.world, other.world
    if not (np.array_equal(one.relation, two.relation) and np.array_equal(one.object, two.object)):
        raise ValueError("the two models have other facts; allowed: a donor with the facts of the run.")
    if corpus.n_languages != other.n_languages:
        n = corpus.n_languages, other.n_languages
        raise ValueError(f"the run has {n[0]} languages, the donor {n[1]}; allowed: as many.")
    for name, due in (("run", corpus.due), ("donor", other.due)):
        if due.shape[2] > 1:
            raise ValueError(f"answers of the {name} have up to {due.shape[2]} tokens; allowed: answers of one.")

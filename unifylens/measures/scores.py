"""What can be read off states and answers: pure functions of tensors that know nothing of models.

States are rows of activations `[fact, d_model]`; row `i` of two languages' states is the same fact.
Everything is computed in float64 on the CPU, so that a score does not depend on where or how precisely the
model ran.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from itertools import combinations
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from torch import Tensor

from unifylens.measures.checks import ROUNDING, checked_labels, checked_states

# Two cosines this close are a tie; tighter than ROUNDING, as cosines near one change with the angle squared.
TIE = 1e-7


def unification(x: Float[Tensor, "fact d_model"], y: Float[Tensor, "fact d_model"]) -> float:
    """Unification score of two languages' states of the same facts; at most 1, and 1 is fully unified.

    `(mean_i cos(x_i, y_i) - baseline) / (1 - baseline)`, where the baseline is the mean cosine of different
    facts `i != j` within a language, averaged over the two languages (arXiv 2508.11017, in our reading of its
    prose). Around 0 a fact is no nearer to its translation than to another fact in its own language; below 0
    it is farther.

    The score is nan where it has no meaning: a state is zero, or all states of both languages point the same
    way. Raises ValueError for fewer than 2 facts, unequal shapes, or states that are not finite.

    >>> a = torch.eye(4)  # states of four facts in one language
    >>> ul.measures.unification(a, a), ul.measures.unification(a, a.roll(1, 0))
    (1.0, 0.0)
    """
    return float(Pair.of(x, y).unification)


def shuffled(
    x: Float[Tensor, "fact d_model"],
    y: Float[Tensor, "fact d_model"],
    relation: Int[Tensor, " fact"],
    seed: int = 0,
) -> float:
    """Control of `unification`: every fact is paired with a random other fact of its relation.

    Facts alone in their relation are left out; nan if all are, and as for `unification`. Raises as it does.
    """
    pair = Pair.of(x, y)
    return float(pair.shuffled(Partners.of(checked_labels(relation, "relation", pair.n), seed)))


def fact_only(
    x: Float[Tensor, "fact d_model"],
    y: Float[Tensor, "fact d_model"],
    relation: Int[Tensor, " fact"],
    subject: Int[Tensor, " fact"],
) -> float:
    """Unification of what the words of a fact do not explain; ours. Sums of word vectors score 0.

    `(mean_i cos(e_i, f_i) - across) / (1 - within)`, where `e` is what an additive fit leaves of a language's states,
    `x_i = mean + subject's part + relation's part + e_i` (least squares, per language), and `f` that of the other's.
    `across` is the mean of `cos(e_i, f_j)` over different facts, `within` that of `cos(e_i, e_j)` and `cos(f_i, f_j)`:
    as rests sum to zero over each subject and each relation, those of different facts point away from each other, by
    more the fewer they are. With both taken off, unrelated rests score 0 at any size, and where a share of what is left
    is common to the languages, that share. What is common need not be known: a network that multiplies words, trained
    or not, scores above 0, so compare with an untrained one.

    Facts that the fit explains whatever their states (such as one alone in its subject or relation) are left out; nan
    if none is left. Where something could be left of a fact and nothing is, in either language, its cosine counts as 0:
    so sums of words score 0 and not nan. Raises ValueError as `unification` does.

    >>> relation, subject = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0, 1, 2, 0, 1, 2])
    >>> words, facts = torch.eye(5)[relation] + torch.eye(5)[subject + 2], torch.eye(6)
    >>> [round(ul.measures.fact_only(x, x, relation, subject), 9) for x in (words, facts)]
    [0.0, 1.0]
    """
    pair = Pair.of(x, y)
    return float(pair.fact_only(_additive(relation, subject, pair.n)))


def fact_only_by_fact(
    x: Float[Tensor, "fact d_model"],
    y: Float[Tensor, "fact d_model"],
    relation: Int[Tensor, " fact"],
    subject: Int[Tensor, " fact"],
) -> Float[Tensor, " fact"]:
    """What every fact adds to `fact_only`, which is their mean: `(cos(e_i, f_i) - across) / (1 - within)`.

    nan for facts that are left out there. Raises ValueError as `unification` does.
    """
    pair = Pair.of(x, y)
    return pair.fact_only_by_fact(_additive(relation, subject, pair.n))


def unification_variants(
    x: Float[Tensor, "fact d_model"],
    y: Float[Tensor, "fact d_model"],
    relation: Int[Tensor, " fact"] | None = None,
    subject: Int[Tensor, " fact"] | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """The unification score beside its other readings, its controls and its ingredients.

    - `unification`: as the function of that name.
    - `cross_baseline`: the same, with the baseline over different facts *across* languages, `cos(x_i, y_j)`,
      i != j.
    - `self_similarity`: the same, with a within-language baseline over all pairs *including* i = j. The
      paper's formula is said in its reviews to conflict with its prose (we worked from abstract and reviews); that
      it counts a state's similarity to itself is our reading of the conflict. It tends to `unification` as the facts
      become many.
    - `centred`: each language's mean state subtracted first, so that a constant language offset does not
      count, and different facts *across* languages as the baseline: `(mean_i cos(x_i, y_i) - across) / (1 - within)`.
      Subtracting the mean turns different facts away from each other, by 1 / facts; both baselines carry it, so that
      unrelated states score 0 at any size.
    - `retrieval_at_1`: share of facts whose nearest state in the other language, by cosine, is their own;
      both directions averaged, ties counted as fractions; chance is 1 / facts.
    - `linear_cka`: centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414). It ignores rotations,
      so it can be high for separate representations of the same geometry, and it is biased upwards for facts
      < d_model.
    - `shuffled`: control; `unification` with every fact paired with a random *other* fact.
    - `shuffled_within_relation`: control, only where `relation` is given; the other fact is of the same
      relation. Facts alone in their relation have no partner and are left out of the mean; nan if all facts
      are alone.
    - `fact_only`: as the function of that name, where `relation` and `subject` are given.
    - `matched_cosine`, `baseline_cosine`: the two ingredients of `unification`.

    All keep the baseline of `unification` but those that name their own. nan and ValueError as for
    `unification`, and ValueError for a `relation` that is not `[fact]`.
    """
    pair, centred = Pair.of(x, y), Pair(States(_centred(x)), States(_centred(y)))
    n = pair.n
    # Of the n * n pairs within a language, n pair a state with itself, at cosine 1.
    with_self = (1 + (n - 1) * pair.baseline) / n
    scores = {
        "unification": pair.unification,
        "cross_baseline": _score(pair.matched, pair.across),
        "self_similarity": _score(pair.matched, with_self),
        "centred": centred.unbiased,
        "retrieval_at_1": _retrieval_at_1(pair.u, pair.v),
        "linear_cka": _linear_cka(x, y),
        "shuffled": pair.shuffled(Partners.of(np.zeros(n), seed)),
    }
    if relation is not None:
        relation = checked_labels(relation, "relation", n)
        scores["shuffled_within_relation"] = pair.shuffled(Partners.of(relation, seed))
        if subject is not None:
            scores["fact_only"] = pair.fact_only(_additive(relation, subject, n))
    scores |= {"matched_cosine": pair.matched, "baseline_cosine": pair.baseline}
    return {name: float(score) for name, score in scores.items()}


def of_languages(
    states: Float[Tensor, "*lead language fact d_model"], scores: Mapping[str, Callable[[Pair], Tensor]]
) -> dict[str, Float[Tensor, "*lead"]]:
    """Scores of pairs, averaged over every two languages: nan if one of them is. Leading dimensions stay apart.

    Raises ValueError for fewer than 2 languages or facts, or states that are not finite.
    """
    if min(states.shape[-3:-1]) < 2:
        raise ValueError(f"states has shape {list(states.shape)}; it must hold at least 2 languages and 2 facts")
    rows = checked_states(states.flatten(0, -2), "states").view(states.shape)
    pairs = [Pair(x, y) for x, y in combinations(map(States, rows.unbind(-3)), 2)]
    return {name: torch.stack([score(pair) for pair in pairs]).mean(0) for name, score in scores.items()}


class Groups(NamedTuple):
    """Facts that share something, such as their relation."""

    index: Int[Tensor, " fact"]
    """Number of each fact's group; groups count from 0."""
    n: int
    n_pairs: int
    """Of different facts of one group, either one first."""

    @classmethod
    def of(cls, label: Int[ndarray, " fact"]) -> Groups:
        """Facts of one label are a group."""
        _, index, sizes = np.unique(label, return_inverse=True, return_counts=True)
        return cls(torch.from_numpy(index), len(sizes), int((sizes * (sizes - 1)).sum()))


class Partners(NamedTuple):
    """Facts that have company in their group, and for each another one of it."""

    fact: Int[Tensor, " some"]
    partner: Int[Tensor, " some"]

    @classmethod
    def of(cls, label: Int[ndarray, " fact"], seed: int) -> Partners:
        """Facts of one label are a group; which of it is a fact's partner depends on the seed."""
        rng = np.random.default_rng(seed)
        facts = [rng.permutation(np.flatnonzero(label == g)) for g in np.unique(label)]
        facts = [members for members in facts if len(members) > 1] or [np.arange(0)]
        # Each fact takes the next one's place along a random cycle, so that none keeps its own.
        partners = [np.roll(members, 1) for members in facts]
        return cls(torch.from_numpy(np.concatenate(facts)), torch.from_numpy(np.concatenate(partners)))


class Additive(NamedTuple):
    """What an additive fit of two labels leaves of facts' states, worked out but for the states."""

    fact: Int[Tensor, " left"]
    """Facts of which something can be left."""
    groups: Groups
    """Of these, by the label that has more values."""
    size: Float[Tensor, "group 1"]
    basis: Float[Tensor, "left other"]
    """Orthonormal directions in which the other label explains what differs within groups."""

    @classmethod
    def of(cls, relation: Int[ndarray, " fact"], subject: Int[ndarray, " fact"]) -> Additive:
        """Facts of one label share its part."""
        fact = np.arange(len(relation))
        fit, left = cls._of_some(fact, relation, subject)
        # Facts that are explained whatever their states bear on no other fact's rest.
        return fit if left.all() else cls._of_some(fact[left], relation, subject)[0]

    @classmethod
    def _of_some(
        cls, fact: Int[ndarray, " some"], relation: Int[ndarray, " fact"], subject: Int[ndarray, " fact"]
    ) -> tuple[Additive, Bool[ndarray, " some"]]:
        """The fit to some facts, and of which of them something can be left."""
        numbers = [np.unique(label[fact], return_inverse=True)[1] for label in (relation, subject)]
        few, many = sorted(numbers, key=lambda label: label.max(initial=-1))
        groups = Groups.of(many)
        size = np.bincount(many).astype(float)[:, None]
        hats = np.eye(few.max(initial=-1) + 1)[few]
        shares = np.zeros((groups.n, hats.shape[1]))
        np.add.at(shares, many, hats)
        within = hats - (shares / size)[many]
        variance, axes = np.linalg.eigh(within.T @ within)
        found = variance > ROUNDING
        basis = within @ axes[:, found] / np.sqrt(variance[found])
        left = 1 - 1 / size[many, 0] - np.square(basis).sum(1) > ROUNDING
        return cls(torch.from_numpy(fact), groups, torch.from_numpy(size), torch.from_numpy(basis)), left

    def rests(self, states: Float[Tensor, "*lead fact d_model"]) -> Float[Tensor, "*lead left d_model"]:
        """What the fit leaves, at length one; zero where that is rounding alone."""
        states = states.index_select(-2, self.fact)
        means = _sums_by_group(states, self.groups) / self.size
        rests = states - means.index_select(-2, self.groups.index)
        rests -= self.basis @ (self.basis.mT @ rests)
        length = rests.norm(dim=-1, keepdim=True)
        something = length > ROUNDING * states.norm(dim=-1, keepdim=True)
        return rests * torch.where(something, 1 / length, 0.0)


def _additive(relation: Int[Tensor, " fact"], subject: Int[Tensor, " fact"], n: int) -> Additive:
    return Additive.of(checked_labels(relation, "relation", n), checked_labels(subject, "subject", n))


class States:
    """One language's states, and what is made of them once, for every pair that the language is in."""

    def __init__(self, rows: Float[Tensor, "*lead fact d_model"]) -> None:
        """`rows` in double precision."""
        self.rows = rows
        self._rests: dict[int, tuple[Additive, States]] = {}

    @classmethod
    def of_units(cls, units: Float[Tensor, "*lead fact d_model"]) -> States:
        """Of rows that are of length one, or zero."""
        states = cls(units)
        states.units = units
        return states

    @cached_property
    def units(self) -> Float[Tensor, "*lead fact d_model"]:
        """At length one."""
        return _units(self.rows)

    def rests(self, words: Additive) -> States:
        """What is left of them when an additive fit is taken off."""
        if id(words) not in self._rests:
            self._rests[id(words)] = words, States.of_units(words.rests(self.rows))
        return self._rests[id(words)][1]


class Pair:
    """Two languages' states of the same facts, at length one: what similarity there is, and what to compare it with.

    States may have leading dimensions, such as layers, which every result has, too.
    """

    def __init__(self, x: States, y: States) -> None:
        """Row i of both is the same fact."""
        self.x, self.y = x, y
        self.u, self.v = x.units, y.units
        self.n = self.u.shape[-2]

    @classmethod
    def of(cls, x: Float[Tensor, "fact d_model"], y: Float[Tensor, "fact d_model"]) -> Pair:
        """Of states of any length, once it is sure that they can be compared."""
        x, y = checked_states(x, "x"), checked_states(y, "y")
        if x.shape != y.shape:
            raise ValueError(f"y has shape {list(y.shape)} and x {list(x.shape)}; row i of both must be the same fact")
        if len(x) < 2:
            raise ValueError(f"x and y hold {len(x)} fact(s); a baseline of different facts needs at least 2")
        return cls(States(x), States(y))

    @cached_property
    def matched(self) -> Float[Tensor, "*lead"]:
        """Mean cosine of a fact with itself in the other language."""
        return _dots(self.u, self.v) / self.n

    @cached_property
    def totals(self) -> tuple[Float[Tensor, "*lead d_model"], Float[Tensor, "*lead d_model"]]:
        """Sums over facts."""
        return self.u.sum(-2), self.v.sum(-2)

    @cached_property
    def baseline(self) -> Float[Tensor, "*lead"]:
        """Mean of `cos(u_i, u_j)` over i != j, and of the other language's, averaged.

        As `|sum_i u_i|^2 = n + sum_{i != j} u_i . u_j` for unit vectors.
        """
        u, v = (total.square().sum(-1) for total in self.totals)
        return ((u + v) / 2 - self.n) / (self.n * (self.n - 1))

    @property
    def across(self) -> Float[Tensor, "*lead"]:
        """Mean of `cos(u_i, v_j)` over i != j, by the same identity."""
        u, v = self.totals
        return ((u * v).sum(-1) - self.n * self.matched) / (self.n * (self.n - 1))

    @property
    def unification(self) -> Float[Tensor, "*lead"]:
        """As the function of that name."""
        return _score(self.matched, self.baseline)

    def shuffled(self, partners: Partners) -> Float[Tensor, "*lead"]:
        """As the function of that name; nan without partners."""
        u, v = self.u.index_select(-2, partners.fact), self.v.index_select(-2, partners.partner)
        return _score(_dots(u, v) / len(partners.fact), self.baseline)

    @property
    def unbiased(self) -> Float[Tensor, "*lead"]:
        """`(matched - across) / (1 - baseline)`: 0 in the mean for unrelated states that sum to zero, at any size."""
        return (self.matched - self.across) / _room(self.baseline)

    def fact_only(self, words: Additive) -> Float[Tensor, "*lead"]:
        """As the function of that name; `words` are the fit of relation and subject."""
        if not len(words.fact):
            return torch.full(self.u.shape[:-2], torch.nan, dtype=self.u.dtype)
        return self._rests(words).unbiased

    def fact_only_by_fact(self, words: Additive) -> Float[Tensor, "*lead fact"]:
        """As the function of that name."""
        scores = torch.full(self.u.shape[:-1], torch.nan, dtype=self.u.dtype)
        if len(words.fact):
            rests = self._rests(words)
            own, across, room = (rests.u * rests.v).sum(-1), rests.across, _room(rests.baseline)
            scores[..., words.fact] = (own - across[..., None]) / room[..., None]
        return scores

    def _rests(self, words: Additive) -> Pair:
        return Pair(self.x.rests(words), self.y.rests(words))

    def within(self, groups: Groups) -> Float[Tensor, "*lead"]:
        """Mean of `cos(u_i, v_j)` over i != j of one group; nan if every group has one fact."""
        sums = (_sums_by_group(w, groups) for w in (self.u, self.v))
        between = _dots(*sums) - self.n * self.matched
        return between / groups.n_pairs if groups.n_pairs else torch.full_like(between, torch.nan)


def directions(states: Float[Tensor, "fact d_model"], centred: bool = False) -> Float[Tensor, "fact d_model"]:
    """States at length one, as cosines compare them; `centred`: less their mean first, so that no offset counts.

    A state without a direction becomes nan. Raises ValueError for states that are not `[fact, d_model]` and finite.
    """
    return _units(_centred(states) if centred else checked_states(states, "states"))


def _units(states: Float[Tensor, "*lead row d_model"]) -> Float[Tensor, "*lead row d_model"]:
    """Rows at length one; a row of zeros has no direction and becomes nan, which every cosine with it
    inherits."""
    return states / states.norm(dim=-1, keepdim=True)


def _centred(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """States less their mean; what is left of a row by rounding alone is set to zero."""
    states = checked_states(states, "states")
    rest = states - states.mean(0)
    rest[rest.norm(dim=1) <= ROUNDING * states.norm(dim=1)] = 0.0
    return rest


def _dots(u: Float[Tensor, "*lead row d_model"], v: Float[Tensor, "*lead row d_model"]) -> Float[Tensor, "*lead"]:
    """Sum of the dot products of rows."""
    return (u * v).sum((-2, -1))


def _sums_by_group(u: Float[Tensor, "*lead fact d_model"], groups: Groups) -> Float[Tensor, "*lead group d_model"]:
    return u.new_zeros(*u.shape[:-2], groups.n, u.shape[-1]).index_add_(-2, groups.index, u)


def _score(similarity: Float[Tensor, "*lead"], baseline: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
    """What similarity there is beyond the baseline, of what there could be; nan where there could be none."""
    return (similarity - baseline) / _room(baseline)


def _room(baseline: Float[Tensor, "*lead"]) -> Float[Tensor, "*lead"]:
    room = 1 - baseline
    return torch.where(room > ROUNDING, room, torch.nan)


def _retrieval_at_1(u: Float[Tensor, "fact d_model"], v: Float[Tensor, "fact d_model"]) -> float:
    cosine = u @ v.T
    if cosine.isnan().any():
        return float("nan")
    shares = []
    for dim in (0, 1):
        nearest = cosine >= cosine.amax(dim, keepdim=True) - TIE
        shares.append((nearest.diagonal() / nearest.sum(dim)).mean())
    return float(sum(shares) / 2)


def _linear_cka(x: Float[Tensor, "fact d_model"], y: Float[Tensor, "fact d_model"]) -> float:
    x, y = _centred(x), _centred(y)
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).norm() ** 2 / scale) if scale > 0 else float("nan")


def similarity_matrix(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row row"]:
    """Cosine similarity of every two rows, in float64; nan for a row of zeros.

    Raises ValueError for states that are not `[row, d_model]` or not finite.
    """
    u = _units(checked_states(states, "states"))
    return (u @ u.T).clamp(-1.0, 1.0)


def checkerboard_contrast(
    states_a: Float[Tensor, "fact d_model"], states_b: Float[Tensor, "fact d_model"], relation: Int[Tensor, " fact"]
) -> float:
    """How far language dominates the similarity matrix of two languages' states of the same facts; in cosines.

    Mean cosine of different facts of one relation within a language, less that of the same fact across languages.
    Above 0 sharing the language counts for more than being the same fact (a checkerboard); below 0 the fact wins.
    The contrast is ours: abstract and reviews of arXiv 2508.11017 do not say how its heatmaps were judged.

    nan if a state is zero or no relation has two facts. Raises ValueError as `unification` does.

    >>> fact, language = torch.eye(6)[:4], 2 * torch.eye(6)[4:]
    >>> relation = torch.tensor([0, 0, 1, 1])
    >>> round(ul.measures.checkerboard_contrast(fact + language[0], fact + language[1], relation), 2)
    0.6
    """
    pair = Pair.of(states_a, states_b)
    groups = Groups.of(checked_labels(relation, "relation", pair.n))
    within = (Pair(pair.x, pair.x).within(groups) + Pair(pair.y, pair.y).within(groups)) / 2
    return float(within - pair.matched)


def checkerboard_background(
    states_a: Float[Tensor, "fact d_model"], states_b: Float[Tensor, "fact d_model"], relation: Int[Tensor, " fact"]
) -> float:
    """The part of `checkerboard_contrast` that different facts show: how far language parts them; in cosines.

    Mean cosine of different facts of one relation within a language, less that of different facts of one relation
    across languages. The contrast is this less the diagonal, by which the same fact stands out across languages.

    nan and ValueError as for `checkerboard_contrast`.
    """
    pair = Pair.of(states_a, states_b)
    groups = Groups.of(checked_labels(relation, "relation", pair.n))
    within = (Pair(pair.x, pair.x).within(groups) + Pair(pair.y, pair.y).within(groups)) / 2
    return float(within - pair.within(groups))


# --- answers -----------------------------------------------------------------------------------------------


def of_all_pairs(
    states: Float[Tensor, "language fact d_model"], partners: Int[Tensor, "language language fact"]
) -> dict[str, Float[Tensor, "language language"]]:
    """`unification`, `retrieval_at_1`, `centred`, `centred_shuffled` of every two languages, from all cosines at once.

    `partners` is the other fact that each fact is paired with in `centred_shuffled`, for each pair of languages.
    """
    scores = {}
    for centred in (False, True):
        units = torch.stack([directions(x, centred) for x in states])
        cosines = torch.einsum("and,bmd->abnm", units, units)
        n = cosines.shape[-1]
        own = cosines.diagonal(dim1=0, dim2=1).permute(2, 0, 1)  # [language, fact, fact]
        different = (own.sum((1, 2)) - own.diagonal(dim1=1, dim2=2).sum(1)) / (n * (n - 1))
        baseline = (different[:, None] + different) / 2
        matched = cosines.diagonal(dim1=2, dim2=3).mean(-1)
        if centred:
            across, room = (cosines.mean((2, 3)) * n - matched) / (n - 1), _room(baseline)
            scores["centred"] = (matched - across) / room
            scores["centred_shuffled"] = (cosines.gather(3, partners[..., None]).mean((2, 3)) - across) / room
        else:
            scores["unification"] = _score(matched, baseline)
            nearest = [cosines >= cosines.amax(dim, keepdim=True) - TIE for dim in (2, 3)]
            shares = [x.diagonal(dim1=2, dim2=3) / x.sum(dim) for dim, x in zip((2, 3), nearest, strict=True)]
            scores["retrieval_at_1"] = (shares[0].mean(-1) + shares[1].mean(-1)) / 2
    return scores

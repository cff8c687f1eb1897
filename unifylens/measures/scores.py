"""What can be read off states and answers: pure functions of tensors that know nothing of models.

States are rows of activations `[fact, d_model]`; row `i` of two languages' states is the same fact.
Everything is computed in float64 on the CPU, so that a score does not depend on where or how precisely the
model ran.
"""

import numpy as np
import torch
from jaxtyping import Float, Int
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
    u, v = _paired_units(x, y)
    return _score(_matched(u, v), _baseline(u, v))


def shuffled(
    x: Float[Tensor, "fact d_model"],
    y: Float[Tensor, "fact d_model"],
    relation: Int[Tensor, " fact"],
    seed: int = 0,
) -> float:
    """Control of `unification`: every fact is paired with a random other fact of its relation.

    Facts alone in their relation are left out; nan if all are, and as for `unification`. Raises as it does.
    """
    u, v = _paired_units(x, y)
    return _score(_mismatched(u, v, checked_labels(relation, "relation", len(u)), seed), _baseline(u, v))


def fact_specific(
    x: Float[Tensor, "fact d_model"],
    y: Float[Tensor, "fact d_model"],
    relation: Int[Tensor, " fact"],
    subject: Int[Tensor, " fact"],
) -> float:
    """Unification beyond shared words; ours: as `unification`, with what sharing a word buys as the baseline.

    The baseline is the mean cosine across languages of different facts of one relation, or of one subject,
    whichever is larger. nan if no two facts share either, and as for `unification`. Raises as it does.

    >>> states, relation, subject = torch.eye(4), torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    >>> ul.measures.fact_specific(states, states, relation, subject)
    1.0
    """
    u, v = _paired_units(x, y)
    groups = [checked_labels(relation, "relation", len(u)), checked_labels(subject, "subject", len(u))]
    return _score(_matched(u, v), float(np.fmax(*(_within_groups(u, v, group) for group in groups))))


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
      published formula is said to conflict with its prose and is not public; that it counts a state's
      similarity to itself is our reading of the conflict. It tends to `unification` as the facts become many.
    - `centred`: each language's mean state subtracted first, so that a constant language offset does not
      count.
    - `retrieval_at_1`: share of facts whose nearest state in the other language, by cosine, is their own;
      both directions averaged, ties counted as fractions; chance is 1 / facts.
    - `linear_cka`: centred kernel alignment (Kornblith et al. 2019, arXiv 1905.00414). It ignores rotations,
      so it can be high for separate representations of the same geometry, and it is biased upwards for facts
      < d_model.
    - `shuffled`: control; `unification` with every fact paired with a random *other* fact.
    - `shuffled_within_relation`: control, only where `relation` is given; the other fact is of the same
      relation. Facts alone in their relation have no partner and are left out of the mean; nan if all facts
      are alone.
    - `fact_specific`: as the function of that name, where `relation` and `subject` are given.
    - `matched_cosine`, `baseline_cosine`: the two ingredients of `unification`.

    All keep the baseline of `unification` but those that name their own. nan and ValueError as for
    `unification`, and ValueError for a `relation` that is not `[fact]`.
    """
    u, v = _paired_units(x, y)
    n = len(u)
    matched, baseline = _matched(u, v), _baseline(u, v)
    # Of the n * n pairs within a language, n pair a state with itself, at cosine 1.
    with_self = (1 + (n - 1) * baseline) / n
    centred = directions(x, centred=True), directions(y, centred=True)
    scores = {
        "unification": _score(matched, baseline),
        "cross_baseline": _score(matched, _across(u, v)),
        "self_similarity": _score(matched, with_self),
        "centred": _score(_matched(*centred), _baseline(*centred)),
        "retrieval_at_1": _retrieval_at_1(u, v),
        "linear_cka": _linear_cka(x, y),
        "shuffled": _score(_mismatched(u, v, np.zeros(n), seed), baseline),
    }
    if relation is not None:
        relation = checked_labels(relation, "relation", n)
        scores["shuffled_within_relation"] = _score(_mismatched(u, v, relation, seed), baseline)
        if subject is not None:
            scores["fact_specific"] = fact_specific(x, y, relation, subject)
    return scores | {"matched_cosine": matched, "baseline_cosine": baseline}


def _paired_units(
    x: Float[Tensor, "fact d_model"], y: Float[Tensor, "fact d_model"]
) -> tuple[Float[Tensor, "fact d_model"], Float[Tensor, "fact d_model"]]:
    """Both languages' states at length one, once it is sure that they can be compared."""
    x, y = checked_states(x, "x"), checked_states(y, "y")
    if x.shape != y.shape:
        raise ValueError(f"y has shape {list(y.shape)} and x {list(x.shape)}; row i of both must be the same fact")
    if len(x) < 2:
        raise ValueError(f"x and y hold {len(x)} fact(s); a baseline of different facts needs at least 2")
    return _units(x), _units(y)


def directions(states: Float[Tensor, "fact d_model"], centred: bool = False) -> Float[Tensor, "fact d_model"]:
    """States at length one, as cosines compare them; `centred`: less their mean first, so that no offset counts.

    A state without a direction becomes nan. Raises ValueError for states that are not `[fact, d_model]` and finite.
    """
    return _units(_centred(states) if centred else checked_states(states, "states"))


def _units(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Rows at length one; a row of zeros has no direction and becomes nan, which every cosine with it
    inherits."""
    return states / states.norm(dim=1, keepdim=True)


def _centred(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """States less their mean; what is left of a row by rounding alone is set to zero."""
    states = checked_states(states, "states")
    rest = states - states.mean(0)
    rest[rest.norm(dim=1) <= ROUNDING * states.norm(dim=1)] = 0.0
    return rest


def _matched(u: Float[Tensor, "fact d_model"], v: Float[Tensor, "fact d_model"]) -> float:
    return float((u * v).sum(1).mean())


def _baseline(u: Float[Tensor, "fact d_model"], v: Float[Tensor, "fact d_model"]) -> float:
    return (_different_facts(u) + _different_facts(v)) / 2


def _different_facts(u: Float[Tensor, "fact d_model"]) -> float:
    """Mean of `cos(u_i, u_j)` over i != j, as `|sum_i u_i|^2 = n + sum_{i != j} u_i . u_j` for unit
    vectors."""
    n, total = len(u), u.sum(0)
    return float(total @ total - n) / (n * (n - 1))


def _across(u: Float[Tensor, "fact d_model"], v: Float[Tensor, "fact d_model"]) -> float:
    """Mean of `cos(u_i, v_j)` over i != j, by the same identity."""
    n = len(u)
    return float(u.sum(0) @ v.sum(0) - (u * v).sum()) / (n * (n - 1))


def _score(similarity: float | Tensor, baseline: float | Tensor) -> float | Tensor:
    """What similarity there is beyond the baseline, of what there could be; nan where there could be none."""
    room = 1 - torch.as_tensor(baseline, dtype=torch.float64)
    beyond = torch.as_tensor(similarity - baseline, dtype=torch.float64)
    score = beyond / torch.where(room > ROUNDING, room, torch.nan)
    return score if isinstance(similarity, Tensor) else float(score)


def _mismatched(
    u: Float[Tensor, "fact d_model"],
    v: Float[Tensor, "fact d_model"],
    group: Int[ndarray, " fact"],
    seed: int,
) -> float:
    """Mean cosine of facts paired with a random other fact of their group; nan if every group has one
    fact."""
    rng = np.random.default_rng(seed)
    facts = [rng.permutation(np.flatnonzero(group == g)) for g in np.unique(group)]
    facts = [members for members in facts if len(members) > 1]
    if not facts:
        return float("nan")
    # Each fact takes the next one's place along a random cycle, so that none keeps its own.
    partners = np.concatenate([np.roll(members, 1) for members in facts])
    return _matched(u[np.concatenate(facts)], v[partners])


def _within_groups(
    u: Float[Tensor, "fact d_model"], v: Float[Tensor, "fact d_model"], group: Int[ndarray, " fact"]
) -> float:
    """Mean of `cos(u_i, v_j)` over i != j of one group; nan if every group has one fact."""
    _, index = np.unique(group, return_inverse=True)
    sizes = np.bincount(index)
    n_pairs = int((sizes * (sizes - 1)).sum())
    if not n_pairs:
        return float("nan")
    index = torch.from_numpy(index)
    sums = [torch.zeros(len(sizes), u.shape[1], dtype=u.dtype).index_add_(0, index, w) for w in (u, v)]
    return float((sums[0] * sums[1]).sum() - (u * v).sum()) / n_pairs


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
    The contrast is ours: how the heatmaps of arXiv 2508.11017 were arranged and judged is not public.

    nan if a state is zero or no relation has two facts. Raises ValueError as `unification` does.

    >>> fact, language = torch.eye(6)[:4], 2 * torch.eye(6)[4:]
    >>> relation = torch.tensor([0, 0, 1, 1])
    >>> round(ul.measures.checkerboard_contrast(fact + language[0], fact + language[1], relation), 2)
    0.6
    """
    u, v = _paired_units(states_a, states_b)
    relation = checked_labels(relation, "relation", len(u))
    within = (_within_groups(u, u, relation) + _within_groups(v, v, relation)) / 2
    return within - _matched(u, v)


# --- answers -----------------------------------------------------------------------------------------------


def of_all_pairs(
    states: Float[Tensor, "language fact d_model"], partners: Int[Tensor, "language language fact"]
) -> dict[str, Float[Tensor, "language language"]]:
    """`unification`, `retrieval_at_1`, `centred`, `centred_shuffled` of every two languages, from all cosines at once.

    `partners` is the other fact that each fact is paired with in `centred_shuffled`, for each pair of languages.
    """
    scores = {}
    for name, centred in (("unification", False), ("centred", True)):
        units = torch.stack([directions(x, centred) for x in states])
        cosines = torch.einsum("and,bmd->abnm", units, units)
        n = cosines.shape[-1]
        own = cosines.diagonal(dim1=0, dim2=1).permute(2, 0, 1)  # [language, fact, fact]
        different = (own.sum((1, 2)) - own.diagonal(dim1=1, dim2=2).sum(1)) / (n * (n - 1))
        baseline = (different[:, None] + different) / 2
        scores[name] = _score(cosines.diagonal(dim1=2, dim2=3).mean(-1), baseline)
        if centred:
            scores["centred_shuffled"] = _score(cosines.gather(3, partners[..., None]).mean((2, 3)), baseline)
        else:
            nearest = [cosines >= cosines.amax(dim, keepdim=True) - TIE for dim in (2, 3)]
            shares = [x.diagonal(dim1=2, dim2=3) / x.sum(dim) for dim, x in zip((2, 3), nearest, strict=True)]
            scores["retrieval_at_1"] = (shares[0].mean(-1) + shares[1].mean(-1)) / 2
    return scores

"""What can be read off states and answers: pure functions of tensors that know nothing of models.

States are rows of activations `[fact, d_model]`; row `i` of two languages' states is the same fact.
Everything is computed in float64 on the CPU, so that a score does not depend on where or how precisely the
model ran.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy import ndarray
from scipy import stats
from torch import Tensor

__all__ = [
    "ANSWER_TYPES",
    "answer_types",
    "checkerboard_contrast",
    "directions",
    "fact_specific",
    "language_probe",
    "mediation",
    "object_choice",
    "partial_rank_correlation",
    "rank_correlation",
    "shuffled",
    "similarity_matrix",
    "unification",
    "unification_variants",
]

ANSWER_TYPES = ("right", "right object, wrong language", "wrong object of the relation", "other")
"""The kinds of answers, in the order of the codes that `answer_types` gives."""

# Models compute in float32: what is smaller than this, relative to one, is rounding and not a signal.
ROUNDING = 1e-6
# Two cosines this close are a tie; tighter than ROUNDING, as cosines near one change with the angle squared.
TIE = 1e-7


# --- unification -------------------------------------------------------------------------------------------


def unification(x: Float[Tensor, "fact d_model"], y: Float[Tensor, "fact d_model"]) -> float:
    """Unification score of two languages' states of the same facts; at most 1, and 1 is fully unified.

    `(mean_i cos(x_i, y_i) - baseline) / (1 - baseline)`, where the baseline is the mean cosine of different
    facts `i != j` within a language, averaged over the two languages (arXiv 2508.11017, in our reading of its
    prose). Around 0 a fact is no nearer to its translation than to another fact in its own language; below 0
    it is farther.

    The score is nan where it has no meaning: a state is zero, or all states of both languages point the same
    way. Raises ValueError for fewer than 2 facts, unequal shapes, or states that are not finite.
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
    return _score(_mismatched(u, v, _labels(relation, "relation", len(u)), seed), _baseline(u, v))


def fact_specific(
    x: Float[Tensor, "fact d_model"],
    y: Float[Tensor, "fact d_model"],
    relation: Int[Tensor, " fact"],
    subject: Int[Tensor, " fact"],
) -> float:
    """Unification beyond shared words; ours: as `unification`, with what sharing a word buys as the baseline.

    The baseline is the mean cosine across languages of different facts of one relation, or of one subject,
    whichever is larger. nan if no two facts share either, and as for `unification`. Raises as it does.
    """
    u, v = _paired_units(x, y)
    groups = [_labels(relation, "relation", len(u)), _labels(subject, "subject", len(u))]
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
        relation = _labels(relation, "relation", n)
        scores["shuffled_within_relation"] = _score(_mismatched(u, v, relation, seed), baseline)
        if subject is not None:
            scores["fact_specific"] = fact_specific(x, y, relation, subject)
    return scores | {"matched_cosine": matched, "baseline_cosine": baseline}


def _paired_units(
    x: Float[Tensor, "fact d_model"], y: Float[Tensor, "fact d_model"]
) -> tuple[Float[Tensor, "fact d_model"], Float[Tensor, "fact d_model"]]:
    """Both languages' states at length one, once it is sure that they can be compared."""
    x, y = _states(x, "x"), _states(y, "y")
    if x.shape != y.shape:
        raise ValueError(f"y has shape {list(y.shape)} and x {list(x.shape)}; row i of both must be the same fact")
    if len(x) < 2:
        raise ValueError(f"x and y hold {len(x)} fact(s); a baseline of different facts needs at least 2")
    return _units(x), _units(y)


def _states(states: Float[Tensor, "row d_model"], name: str) -> Float[Tensor, "row d_model"]:
    states = torch.as_tensor(states).detach().cpu().double()
    if states.ndim != 2:
        raise ValueError(f"{name} has shape {list(states.shape)}; it must be [row, d_model]")
    if not torch.isfinite(states).all():
        raise ValueError(f"{name} holds nan or infinity; all states must be finite")
    return states


def _labels(labels: Int[Tensor, " row"], name: str, n_rows: int) -> Int[ndarray, " row"]:
    labels = torch.as_tensor(labels).detach().cpu().numpy()
    if labels.shape != (n_rows,):
        raise ValueError(f"{name} has shape {list(labels.shape)}; it must be [{n_rows}], one entry a row")
    return labels


def directions(states: Float[Tensor, "fact d_model"], centred: bool = False) -> Float[Tensor, "fact d_model"]:
    """States at length one, as cosines compare them; `centred`: less their mean first, so that no offset counts.

    A state without a direction becomes nan. Raises ValueError for states that are not `[fact, d_model]` and finite.
    """
    return _units(_centred(states) if centred else _states(states, "states"))


def _units(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """Rows at length one; a row of zeros has no direction and becomes nan, which every cosine with it
    inherits."""
    return states / states.norm(dim=1, keepdim=True)


def _centred(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_model"]:
    """States less their mean; what is left of a row by rounding alone is set to zero."""
    states = _states(states, "states")
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


def _score(similarity: float, baseline: float) -> float:
    room = 1 - baseline
    # `not >` rather than `<=`, so that a nan baseline gives nan too.
    return (similarity - baseline) / room if room > ROUNDING else float("nan")


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


# --- similarity matrices -----------------------------------------------------------------------------------


def similarity_matrix(states: Float[Tensor, "row d_model"]) -> Float[Tensor, "row row"]:
    """Cosine similarity of every two rows, in float64; nan for a row of zeros.

    Raises ValueError for states that are not `[row, d_model]` or not finite.
    """
    u = _units(_states(states, "states"))
    return (u @ u.T).clamp(-1.0, 1.0)


def checkerboard_contrast(
    states_a: Float[Tensor, "fact d_model"], states_b: Float[Tensor, "fact d_model"], relation: Int[Tensor, " fact"]
) -> float:
    """How far language dominates the similarity matrix of two languages' states of the same facts; in cosines.

    Mean cosine of different facts of one relation within a language, less that of the same fact across languages.
    Above 0 sharing the language counts for more than being the same fact (a checkerboard); below 0 the fact wins.
    The contrast is ours: how the heatmaps of arXiv 2508.11017 were arranged and judged is not public.

    nan if a state is zero or no relation has two facts. Raises ValueError as `unification` does.
    """
    u, v = _paired_units(states_a, states_b)
    relation = _labels(relation, "relation", len(u))
    within = (_within_groups(u, u, relation) + _within_groups(v, v, relation)) / 2
    return within - _matched(u, v)


# --- probes ------------------------------------------------------------------------------------------------


def language_probe(
    states: Float[Tensor, "row d_model"],
    language: Int[Tensor, " row"],
    group: Int[Tensor, " row"],
    seed: int = 0,
) -> float:
    """Accuracy, 0 to 1, with which a linear probe reads the language off states of groups it was not trained
    on.

    A ridge classifier of standardised states is trained on a random half of the groups (such as relations)
    and tested on the others, then the other way round, and the two accuracies are averaged: only a language
    direction that the groups share is found. Chance is the share of the commonest language.

    Raises ValueError for a single group, for a half of the groups with only one language, for labels that are
    not `[row]`, and for states that are not finite.
    """
    states = _states(states, "states").double().numpy()
    language = _labels(language, "language", len(states))
    group = _labels(group, "group", len(states))
    known = np.unique(language, return_inverse=True)[1]  # languages numbered from 0
    groups = np.random.default_rng(seed).permutation(np.unique(group))
    if len(groups) < 2:
        raise ValueError(f"group holds {len(groups)} distinct group(s); the probe needs at least 2 to split")
    first = np.isin(group, groups[: len(groups) // 2])
    accuracies = []
    for train in (first, ~first):
        if len(np.unique(language[train])) < 2:
            held = np.unique(group[train]).tolist()
            raise ValueError(f"language has one value in groups {held}; each half of the groups needs at least 2")
        mean, spread = states[train].mean(0), states[train].std(0)
        standard = (states - mean) / np.where(spread > 0, spread, 1.0)
        accuracies.append(np.mean(_ridge_choice(standard[train], known[train], standard[~train]) == known[~train]))
    return float(np.mean(accuracies))


def _ridge_choice(
    x: Float[ndarray, "train d_model"], label: Int[ndarray, " train"], asked: Float[ndarray, "test d_model"]
) -> Int[ndarray, " test"]:
    """scikit-learn's `RidgeClassifier()` on columns of mean zero; written out, as its checks take ten times as long."""
    targets = 2.0 * (label[:, None] == np.arange(label.max() + 1)) - 1.0
    intercept = targets.mean(0)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (targets - intercept))
    return (asked @ weights + intercept).argmax(1)


# --- answers -----------------------------------------------------------------------------------------------


def answer_types(
    predicted: Int[Tensor, " row"],
    answer: Int[Tensor, " row"],
    token_object: Int[Tensor, " vocab"],
    token_relation: Int[Tensor, " vocab"],
    due_object: Int[Tensor, " row"],
    relation: Int[Tensor, " row"],
) -> Int[Tensor, " row"]:
    """The kind of every answer, as codes into `ANSWER_TYPES`; the first that fits counts.

    `predicted` and `answer` are tokens; `token_object` and `token_relation` say which object, of which
    relation, a token names in any language, -1 for tokens that name none; `due_object` and `relation` are
    those asked for. Objects are numbered across relations: no two relations' objects share a number.

    Raises ValueError for shapes that differ, for predicted tokens outside the vocabulary, and for a
    `due_object` or `relation` below 0, which would count tokens that name no object as right.
    """
    for name, rows in {"answer": answer, "due_object": due_object, "relation": relation}.items():
        if rows.shape != predicted.shape:
            raise ValueError(f"{name} has shape {list(rows.shape)}; predicted has {list(predicted.shape)}")
    if token_relation.shape != token_object.shape:
        shapes = list(token_relation.shape), list(token_object.shape)
        raise ValueError(f"token_relation has shape {shapes[0]}; token_object has {shapes[1]}")
    n_vocab = len(token_object)
    for name, rows, end in (
        ("predicted", predicted, n_vocab),
        ("due_object", due_object, None),
        ("relation", relation, None),
    ):
        wrong = (rows < 0) if end is None else (rows < 0) | (rows >= end)
        if wrong.any():
            allowed = "0 or more" if end is None else f"in 0..{end - 1}"
            raise ValueError(f"{name} holds {int(rows[wrong][0])}; it must be {allowed}")
    codes = torch.full_like(predicted, ANSWER_TYPES.index("other"))
    codes[token_relation[predicted] == relation] = ANSWER_TYPES.index("wrong object of the relation")
    codes[token_object[predicted] == due_object] = ANSWER_TYPES.index("right object, wrong language")
    codes[predicted == answer] = ANSWER_TYPES.index("right")
    return codes


def object_choice(logits: Float[Tensor, "row vocab"], choices: Bool[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    """The likeliest allowed token of each row: the calibrated choice among a relation's objects.

    Raises ValueError for unequal shapes, a row without an allowed token, or logits that are nan.
    """
    if logits.shape != choices.shape:
        raise ValueError(f"choices has shape {list(choices.shape)}; logits has {list(logits.shape)}")
    if choices.dtype != torch.bool:
        raise ValueError(f"choices has dtype {choices.dtype}; it must be torch.bool")
    if not (allowed := choices.any(-1)).all():
        raise ValueError(f"choices allows no token in row {int((~allowed).nonzero()[0])}; it must allow at least 1")
    if logits.isnan().any():
        raise ValueError("logits holds nan; every logit must be a number")
    # A forbidden token must lose even to an allowed one at -inf, hence two steps and not one masked argmax.
    best = logits.masked_fill(~choices, -torch.inf).amax(-1, keepdim=True)
    return (logits.eq(best).logical_and_(choices)).to(torch.uint8).argmax(-1)


# --- association -------------------------------------------------------------------------------------------


def rank_correlation(x: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> float:
    """Spearman's rank correlation over the pairs in which both are numbers."""
    return float(stats.spearmanr(x, y, nan_policy="omit").statistic)


def partial_rank_correlation(
    x: Float[ndarray, " n"], y: Float[ndarray, " n"], covariate: Float[ndarray, " n ..."]
) -> float:
    """Spearman correlation, -1 to 1, of `x` and `y` with one or more covariates `[n]` or `[n, k]` held fixed.

    Ranks are taken first, the covariates' ranks are regressed out of both, and what is left is correlated
    (Kendall 1942 for ranks). nan where nothing is left, as when the covariate orders `x` completely.

    Raises ValueError for lengths that differ, fewer than `k + 3` rows, or values that are not finite.
    """
    x, y, covariate = (np.asarray(values, dtype=np.float64) for values in (x, y, covariate))
    covariate = covariate.reshape(len(covariate), -1)
    if x.ndim != 1 or x.shape != y.shape or len(covariate) != len(x):
        raise ValueError(f"x, y, covariate have {x.shape}, {y.shape}, {covariate.shape}; lengths must be equal")
    if len(x) < (least := covariate.shape[1] + 3):
        raise ValueError(f"x has {len(x)} rows; with {covariate.shape[1]} covariate(s) it needs at least {least}")
    if not all(np.isfinite(values).all() for values in (x, y, covariate)):
        raise ValueError("x, y or covariate holds nan or infinity; all values must be finite")
    ranks = np.column_stack([np.ones(len(x)), stats.rankdata(covariate, axis=0)])
    rests = []
    for values in (stats.rankdata(x), stats.rankdata(y)):
        rest = values - ranks @ np.linalg.lstsq(ranks, values)[0]
        if np.linalg.norm(rest) <= ROUNDING * np.linalg.norm(values):
            return float("nan")
        rests.append(rest)
    return float(stats.pearsonr(*rests).statistic)


def mediation(x: Float[ndarray, " n"], mediator: Float[ndarray, " n"], y: Float[ndarray, " n"]) -> dict[str, float]:
    """Effect of `x` on `y`, in standard deviations: `total`, `direct` with the mediator held fixed, `indirect` by it.

    Linear regressions (Baron and Kenny 1986): `total` is the slope of `y` on `x`; `direct` that beside the mediator;
    `indirect` the slope of the mediator on `x` times that of `y` on the mediator beside `x`. `total = direct +
    indirect`, exactly. It says what is consistent with a cause, not what is one. nan where one is constant or `x` and
    the mediator are collinear.

    Raises ValueError for lengths that differ, fewer than 4 rows, or values that are not finite.
    """
    named = {"x": x, "mediator": mediator, "y": y}
    columns = [np.asarray(values, dtype=np.float64) for values in named.values()]
    if len({values.shape for values in columns}) > 1 or columns[0].ndim != 1 or len(columns[0]) < 4:
        shapes = ", ".join(f"{name} {values.shape}" for name, values in zip(named, columns, strict=True))
        raise ValueError(f"{shapes}: allowed are equal lengths [n] of at least 4")
    if not all(np.isfinite(values).all() for values in columns):
        raise ValueError("x, mediator or y holds nan or infinity; all values must be finite")
    xm, xy, my = np.nan, np.nan, np.nan
    if all(np.ptp(values) > ROUNDING * np.abs(values).max() for values in columns):
        (_, xm, xy), (_, _, my), _ = np.corrcoef(columns)
    room = 1 - xm**2
    direct = (xy - xm * my) / room if room > ROUNDING else float("nan")
    return {"total": float(xy), "direct": float(direct), "indirect": float(xy - direct)}

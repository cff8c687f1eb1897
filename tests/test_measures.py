"""Measures against loops over pairs, and against states whose score is known beforehand."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import roc_auc_score

from unifylens import measures as m


def cos(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def mean_cos(x, y, same_too=False):
    """Mean cosine over pairs of rows i != j, or over all pairs, one pair at a time."""
    n = len(x)
    return np.mean([cos(x[i], y[j]) for i in range(n) for j in range(n) if same_too or i != j])


def states(seed, n=7, d=5, shift=0.5):
    """Two languages' states that share a part, with an offset, so that no ingredient is trivial."""
    g = torch.Generator().manual_seed(seed)
    fact, own_x, own_y = torch.randn(3, n, d, generator=g, dtype=torch.float64)
    return fact + 0.5 * own_x + shift, fact + 0.5 * own_y - shift


seeds = st.integers(0, 10_000)


@settings(deadline=None)
@given(seeds, st.integers(2, 9), st.integers(1, 6))
def test_every_reading_against_its_formula_written_out(seed, n, d):
    x, y = states(seed, n, d)
    matched = np.mean([cos(a, b) for a, b in zip(x, y, strict=True)])
    within = (mean_cos(x, x) + mean_cos(y, y)) / 2
    with_self = (mean_cos(x, x, same_too=True) + mean_cos(y, y, same_too=True)) / 2
    across = mean_cos(x, y)

    def score(baseline):
        return (matched - baseline) / (1 - baseline) if 1 - baseline > 1e-6 else math.nan

    found = m.unification_variants(x, y)
    expected = {
        "matched_cosine": matched,
        "baseline_cosine": within,
        "unification": score(within),
        "self_similarity": score(with_self),
        "cross_baseline": score(across),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-8, abs=1e-8, nan_ok=True), name
    assert m.unification(x, y) == pytest.approx(found["unification"], nan_ok=True)
    matched = np.mean([cos(a, b) for a, b in zip(x, y, strict=True)])
    one_relation = torch.zeros(len(x), dtype=torch.long)
    assert m.checkerboard_contrast(x, y, one_relation) == pytest.approx(within - matched, abs=1e-12)


@settings(deadline=None)
@given(seeds)
def test_readings_beyond_the_cosine_formula(seed):
    x, y = states(seed)
    found = m.unification_variants(x, y)
    a, b = x - x.mean(0), y - y.mean(0)
    matched, across = np.mean([cos(*pair) for pair in zip(a, b, strict=True)]), mean_cos(a, b)
    assert found["centred"] == pytest.approx((matched - across) / (1 - (mean_cos(a, a) + mean_cos(b, b)) / 2))
    n = len(x)
    kernels = [(z - z.mean(0)) @ (z - z.mean(0)).T for z in (x, y)]
    alignment = (kernels[0] * kernels[1]).sum() / (kernels[0].norm() * kernels[1].norm())
    assert found["linear_cka"] == pytest.approx(float(alignment))
    hits = [max(range(n), key=lambda j: cos(x[i], y[j])) == i for i in range(n)]
    hits += [max(range(n), key=lambda j: cos(y[i], x[j])) == i for i in range(n)]
    assert found["retrieval_at_1"] == pytest.approx(np.mean(hits))


@settings(deadline=None)
@given(seeds, st.floats(1e-3, 1e3), st.randoms(use_true_random=False))
def test_length_order_rotation_and_language_do_not_matter(seed, scale, random):
    x, y = states(seed)
    order = random.sample(range(len(x)), len(x))
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(seed)).double())[0]
    names = ("unification", "cross_baseline", "self_similarity", "centred", "retrieval_at_1", "linear_cka")
    base = m.unification_variants(x, y)
    for other in ((x * scale, y), (x[order], y[order]), (x @ rotation, y @ rotation), (y, x)):
        found = m.unification_variants(*other)
        assert [found[k] for k in names] == pytest.approx([base[k] for k in names], abs=1e-6)


def test_unified_separate_and_shuffled_states_score_as_they_should():
    x, _ = states(0, n=200, d=40)
    unified = m.unification_variants(x, x)
    assert unified["unification"] == pytest.approx(1.0)
    assert unified["retrieval_at_1"] == unified["linear_cka"] == pytest.approx(1.0)
    assert abs(unified["shuffled"]) < 0.05

    _, stranger = states(1, n=200, d=40)
    separate = m.unification_variants(x - 0.5, stranger + 0.5)
    assert abs(separate["unification"]) < 0.05
    assert separate["retrieval_at_1"] < 0.05


def test_an_offset_between_languages_hides_what_centring_shows():
    x, y = states(0, n=100, d=20, shift=3.0)
    found = m.unification_variants(x, y)
    assert found["unification"] < 0 < 0.5 < found["centred"]
    assert found["unification"] < found["cross_baseline"]


def test_linear_cka_is_blind_to_rotation_and_unification_is_not():
    x, _ = states(0, n=100, d=20)
    rotation = torch.linalg.qr(torch.randn(20, 20, generator=torch.Generator().manual_seed(3)).double())[0]
    found = m.unification_variants(x - x.mean(0), (x - x.mean(0)) @ rotation)
    assert found["linear_cka"] == pytest.approx(1.0)
    assert found["unification"] < 0.2


def test_shuffling_within_relations_keeps_what_the_relation_alone_explains():
    g = torch.Generator().manual_seed(0)
    relation = torch.arange(4).repeat_interleave(10)
    x = torch.randn(4, 30, generator=g)[relation] + 0.3 * torch.randn(40, 30, generator=g)
    found = m.unification_variants(x, x, relation)
    assert found["shuffled"] < 0.4 < 0.8 < found["shuffled_within_relation"] < 1.0


def test_no_fact_is_its_own_partner():
    one_hot = torch.eye(12)
    for seed in range(20):
        found = m.unification_variants(one_hot, one_hot, torch.tensor([0] * 5 + [1] * 6 + [2]), seed=seed)
        assert found["shuffled"] == found["shuffled_within_relation"] == 0.0


def test_shuffled_control_is_seeded_and_averages_to_the_cross_language_mean():
    x, y = states(5, n=6)
    draws = [m.unification_variants(x, y, seed=s)["shuffled"] for s in range(400)]
    assert draws[0] == m.unification_variants(x, y, seed=0)["shuffled"]
    baseline = m.unification_variants(x, y)["baseline_cosine"]
    assert np.mean(draws) == pytest.approx((mean_cos(x, y) - baseline) / (1 - baseline), abs=0.03)


def test_facts_alone_in_their_relation():
    x, y = states(0, n=5)
    assert math.isnan(m.unification_variants(x, y, torch.arange(5))["shuffled_within_relation"])
    found = m.unification_variants(x, y, torch.tensor([0, 0, 1, 2, 3]))
    swapped = (cos(x[0], y[1]) + cos(x[1], y[0])) / 2
    expected = (swapped - found["baseline_cosine"]) / (1 - found["baseline_cosine"])
    assert found["shuffled_within_relation"] == pytest.approx(expected)


def test_scores_without_a_meaning_are_nan():
    constant = torch.full((6, 4), 0.3)
    found = m.unification_variants(constant, constant)
    for name in ("unification", "cross_baseline", "self_similarity", "centred", "linear_cka", "shuffled"):
        assert math.isnan(found[name]), name
    assert found["retrieval_at_1"] == pytest.approx(1 / 6)
    x, y = states(0)
    x[2] = 0
    assert math.isnan(m.unification(x, y))
    assert math.isnan(m.unification_variants(x, y)["retrieval_at_1"])


def test_ties_count_as_fractions():
    x = torch.eye(4)[[0, 0, 1, 2]]
    assert m.unification_variants(x, x)["retrieval_at_1"] == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)


def contrast(x, y):
    return m.checkerboard_contrast(x, y, torch.zeros(max(len(x), 1), dtype=torch.long))


@pytest.mark.parametrize("score", [m.unification, m.unification_variants, contrast])
def test_states_that_cannot_be_compared_are_refused(score):
    x, y = states(0)
    for bad in ((x, y[:-1]), (x[:1], y[:1]), (x, y * math.nan), (x[0], y[0])):
        with pytest.raises(ValueError, match=r"must|needs"):
            score(*bad)
    with pytest.raises(ValueError, match="relation has shape"):
        m.unification_variants(x, y, torch.zeros(3))


def test_inputs_are_left_as_they_were_and_gradients_and_half_precision_are_accepted():
    x, y = (z.requires_grad_() for z in states(0))
    before = x.detach().clone()
    full = m.unification_variants(x, y)["centred"]
    assert torch.equal(x.detach(), before)
    assert m.unification_variants(x.bfloat16(), y.bfloat16())["centred"] == pytest.approx(full, abs=0.02)


def test_similarity_matrix_is_of_cosines():
    x, _ = states(0)
    found = m.similarity_matrix(x)
    expected = [[cos(a, b) for b in x] for a in x]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_checkerboard_shows_which_of_language_and_fact_dominates():
    x, y = states(0, n=100, d=20, shift=0.0)
    relation = torch.arange(100) % 4
    assert m.checkerboard_contrast(x + 50, y - 50, relation) > 1.9  # only the language shows
    assert m.checkerboard_contrast(x, x, relation) == pytest.approx(-1, abs=0.02)  # only the fact shows
    assert math.isnan(m.checkerboard_contrast(x, y, torch.arange(100)))  # no two facts share a relation


# --- what words do not explain -------------------------------------------------------------------------------


def words(n_subjects, n_relations, cosine, generator, d=64):
    """Sums of word vectors in two languages that share subjects; relation words have this cosine. And the labels."""
    relation, subject = (
        torch.arange(n_subjects * n_relations) % n_relations,
        torch.arange(n_subjects * n_relations) // n_relations,
    )
    subjects = torch.randn(n_subjects, d, generator=generator).double()
    first, own = torch.randn(2, n_relations, d, generator=generator).double()
    second = cosine * first + (1 - cosine**2) ** 0.5 * own
    return subjects[subject] + first[relation], subjects[subject] + second[relation], relation, subject


@pytest.mark.parametrize("cosine", [0.0, 0.8, 1.0])
def test_sums_of_word_vectors_have_no_fact_of_their_own(cosine):
    """A score that takes off the larger of the two words' baselines gives 0.80 and 0.97 at cosines 0.8 and 1."""
    g = torch.Generator().manual_seed(0)
    x, y, relation, subject = words(40, 8, cosine, g)
    assert m.unification(x, y) > 0.4
    assert m.fact_only(x, y, relation, subject) == m.fact_only(x.float(), y.float(), relation, subject) == 0.0
    noise = 0.3 * torch.randn(2, *x.shape, generator=g)
    assert abs(m.fact_only(x + noise[0], y + noise[1], relation, subject)) < 0.03


@pytest.mark.parametrize("planted", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("n_subjects, n_relations", [(5, 3), (3, 5), (8, 8), (40, 3)])
@pytest.mark.parametrize("share", [1.0, 0.9, 0.7, 0.5])
def test_a_planted_fact_scores_its_strength_at_any_size(planted, n_subjects, n_relations, share):
    draw, found = torch.Generator().manual_seed(1), []
    for _ in range(max(12, 3000 // (n_subjects * n_relations))):
        x, y, relation, subject = words(n_subjects, n_relations, 0.8, draw)
        kept = torch.randperm(len(x), generator=draw)[: round(share * len(x))]
        fact, *own = torch.randn(3, len(x), 64, generator=draw).double()
        x, y = (z + planted**0.5 * fact + (1 - planted) ** 0.5 * e for z, e in zip((x, y), own, strict=True))
        found.append(m.fact_only(x[kept], y[kept], relation[kept], subject[kept]))
    found = np.array(found)
    found = found[~np.isnan(found)]  # where so few cells are left that words explain all
    assert len(found) > 8
    assert found.mean() == pytest.approx(planted, abs=max(0.01, 4 * found.std() / len(found) ** 0.5))


@settings(deadline=None)
@given(seeds, st.integers(6, 20))
def test_fact_only_against_a_regression_on_dummies(seed, n_kept):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(2, n_kept, 9, generator=g).double() + 2
    relation, subject = (torch.randint(n, (n_kept,), generator=g) for n in (3, 5))
    dummies = np.concatenate([np.eye(3)[relation], np.eye(5)[subject]], 1)
    left = np.eye(n_kept) - dummies @ np.linalg.pinv(dummies)
    kept = left.diagonal() > 1e-9
    by_fact = m.fact_only_by_fact(x, y, relation, subject)
    assert (by_fact.isnan().numpy() == ~kept).all()
    score = m.fact_only(x, y, relation, subject)
    if not kept.any():
        assert math.isnan(score)
        return
    e, f = (torch.from_numpy((left @ z.numpy())[kept]) for z in (x, y))
    own = np.array([cos(a, b) for a, b in zip(e, f, strict=True)])
    across, within = mean_cos(e, f), (mean_cos(e, e) + mean_cos(f, f)) / 2
    np.testing.assert_allclose(by_fact[kept], (own - across) / (1 - within), rtol=1e-7, atol=1e-9)
    assert score == pytest.approx(float(by_fact.nanmean()))
    assert score == pytest.approx(m.unification_variants(x, y, relation, subject)["fact_only"])


def test_fact_only_where_nothing_is_left():
    x, y = states(0, n=6)
    alone, together = torch.arange(6), torch.zeros(6)
    assert math.isnan(m.fact_only(x, y, alone, together)), "each relation explains its only fact"
    assert not math.isnan(m.fact_only(x, y, together, together))
    assert m.fact_only(torch.ones(6, 4), torch.ones(6, 4), together, together) == 0.0
    chain = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 1, 2, 2, 3])
    assert math.isnan(m.fact_only(x, y, *chain)), "as many words as a chain of facts has explain it"
    # a fact that hangs on the others by one word alone changes nothing
    relation, subject = torch.tensor([0, 0, 1, 1, 1, 2]), torch.tensor([0, 1, 0, 1, 2, 2])
    whole = m.fact_only(x, y, relation, subject)
    assert whole == pytest.approx(m.fact_only(x[:4], y[:4], relation[:4], subject[:4]))
    none = m.scores.Additive.of(np.arange(0), np.arange(0))
    assert not len(none.fact)
    with pytest.raises(ValueError, match="subject has shape"):
        m.fact_only(x, y, relation, subject[:3])


@pytest.mark.parametrize("n", [3, 5, 8, 16])
def test_unrelated_states_score_nothing_at_any_size_when_centred(n):
    """The within-language baseline alone gives 0.34, 0.19, 0.12 and 0.06."""
    g = torch.Generator().manual_seed(n)
    found = [m.unification_variants(*torch.randn(2, n, 64, generator=g))["centred"] for _ in range(400)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 20 < 0.03
    x = torch.randn(n, 64, generator=g)
    assert m.unification_variants(x, x + 7)["centred"] == pytest.approx(1.0, abs=1e-6)
    assert m.unification_variants(x, -x)["centred"] == pytest.approx(-1.0, abs=1e-6)


def test_language_probe_finds_a_shared_direction_and_no_other():
    g = torch.Generator().manual_seed(0)
    group = torch.arange(8).repeat_interleave(40)
    language = torch.arange(2).repeat(160)
    noise = torch.randn(320, 16, generator=g)
    direction = torch.randn(16, generator=g)
    assert m.language_probe(noise + language[:, None] * 3 * direction, language, group) > 0.95
    assert abs(m.language_probe(noise, language, group) - 0.5) < 0.1
    # A language direction of each group's own can be read within the group and must not count.
    own = torch.linalg.qr(torch.randn(16, 16, generator=g))[0][:8][group]
    assert m.language_probe(noise + (2 * language[:, None] - 1) * 5 * own, language, group) < 0.75


def test_language_probe_refuses_what_it_cannot_split():
    x, _ = states(0, n=8)
    with pytest.raises(ValueError, match="at least 2 to split"):
        m.language_probe(x, torch.arange(8) % 2, torch.zeros(8))
    with pytest.raises(ValueError, match="each half of the groups"):
        m.language_probe(x, torch.arange(8) // 4, torch.arange(8) // 4)
    with pytest.raises(ValueError, match="language has shape"):
        m.language_probe(x, torch.zeros(3), torch.arange(8))


# Tokens 0, 1 say object 0 and 2, 3 object 1, both of relation 0; 4 says object 2 of relation 1; 5 is a word.
TOKEN_OBJECT = torch.tensor([0, 0, 1, 1, 2, -1])
TOKEN_RELATION = torch.tensor([0, 0, 0, 0, 1, -1])


def test_answer_types_by_hand():
    predicted = torch.arange(6)
    ask = [torch.full((6,), value) for value in (0, 0, 0)]
    codes = m.answer_types(predicted, ask[0], TOKEN_OBJECT, TOKEN_RELATION, ask[1], ask[2])
    assert [m.ANSWER_TYPES[c] for c in codes] == [
        "right",
        "right object, wrong language",
        "wrong object of the relation",
        "wrong object of the relation",
        "other",
        "other",
    ]


def test_answer_types_refuses_marks_that_would_match_non_objects():
    zero, minus = torch.zeros(1, dtype=torch.long), -torch.ones(1, dtype=torch.long)
    for bad in ((minus, zero, zero), (zero + 6, zero, zero), (zero, minus, zero), (zero, zero, minus)):
        with pytest.raises(ValueError, match="must be"):
            m.answer_types(bad[0], zero, TOKEN_OBJECT, TOKEN_RELATION, bad[1], bad[2])
    with pytest.raises(ValueError, match="answer has shape"):
        m.answer_types(zero, torch.zeros(2), TOKEN_OBJECT, TOKEN_RELATION, zero, zero)


@settings(deadline=None)
@given(seeds)
def test_object_choice_is_the_best_of_the_allowed(seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 7, generator=g)
    choices = torch.rand(5, 7, generator=g) < 0.4
    choices[:, 3] = True
    expected = []
    for row, allowed in zip(logits.tolist(), choices.tolist(), strict=True):
        expected.append(max((token for token in range(7) if allowed[token]), key=row.__getitem__))
    assert m.object_choice(logits, choices).tolist() == expected


def test_object_choice_never_leaves_the_allowed():
    logits = torch.tensor([[0.0, -torch.inf, -torch.inf]])
    assert m.object_choice(logits, torch.tensor([[False, False, True]])).tolist() == [2]
    with pytest.raises(ValueError, match="row 0"):
        m.object_choice(logits, torch.zeros(1, 3, dtype=torch.bool))
    with pytest.raises(ValueError, match="dtype"):
        m.object_choice(logits, torch.ones(1, 3))


def test_what_is_likely_whatever_is_asked_is_taken_off_by_group():
    scores = torch.tensor([[3.0, 1.0], [5.0, 2.0], [0.0, 7.0]])
    found = m.without_prior(scores, torch.tensor([4, 4, 9]))
    assert found.tolist() == [[-1.0, -0.5], [1.0, 0.5], [0.0, 0.0]]
    as_log_probabilities = m.without_prior(scores.log_softmax(1), torch.tensor([4, 4, 9]))
    torch.testing.assert_close(found.diff(dim=1), as_log_probabilities.diff(dim=1))
    with pytest.raises(ValueError, match="group has shape"):
        m.without_prior(scores, torch.zeros(2))


def test_without_its_prior_a_model_that_knows_answers_worse():
    """Four in five rows are due answer 0; the right answer is ahead by 1 +- 1: 0.84 are right, and 0.71 without it."""
    n = 200_000
    due = (torch.arange(n) % 5 == 0).long()
    ahead = 1 + torch.randn(n, generator=torch.Generator().manual_seed(0))
    logits = torch.nn.functional.one_hot(due) * ahead[:, None]
    accuracy = [(scores.argmax(1) == due).double().mean() for scores in (logits, m.without_prior(logits, due * 0))]
    assert accuracy == pytest.approx([0.841, 0.713], abs=0.005)


def test_without_its_prior_a_model_that_knows_answers_again():
    """A model that knows every answer, but for a liking of one by more than it knows: chance raw, all right without."""
    due = torch.arange(64) % 8
    logits = torch.nn.functional.one_hot(due).float() + 5 * torch.nn.functional.one_hot(torch.tensor(3), 8)
    assert (logits.argmax(1) == due).double().mean() == 1 / 8
    assert (m.without_prior(logits, due * 0).argmax(1) == due).all()


def test_partial_rank_correlation_takes_away_what_the_covariate_explains():
    rng = np.random.default_rng(0)
    cause, a, b = rng.normal(size=(3, 400))
    x, y = np.exp(cause + 0.3 * a), cause + 0.3 * b
    assert stats.spearmanr(x, y).statistic > 0.8
    assert abs(m.partial_rank_correlation(x, y, cause)) < 0.1
    assert m.partial_rank_correlation(x, y, a) > 0.8


@given(seeds)
def test_partial_rank_correlation_against_the_formula_of_three_correlations(seed):
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(size=(3, 12))
    xy, xz, yz = (stats.spearmanr(*pair).statistic for pair in ((x, y), (x, z), (y, z)))
    expected = (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    assert m.partial_rank_correlation(x, y, z) == pytest.approx(expected, abs=1e-9)
    assert m.partial_rank_correlation(np.exp(x), y**3, 2 * z) == pytest.approx(expected, abs=1e-9)


def test_partial_rank_correlation_edges():
    line = np.arange(8.0)
    assert math.isnan(m.partial_rank_correlation(line**2, line[::-1], line))
    with pytest.raises(ValueError, match="at least 4"):
        m.partial_rank_correlation(line[:3], line[:3], line[:3])
    with pytest.raises(ValueError, match="equal"):
        m.partial_rank_correlation(line, line, line[:5])


@settings(max_examples=20)
@given(st.integers(2, 4), st.integers(0, 99), st.floats(0.0, 3.0))
def test_language_probe_is_scikit_learns_ridge_classifier(n_languages, seed, strength):
    generator = torch.Generator().manual_seed(seed)
    language = torch.arange(120) % n_languages
    directions = torch.randn(n_languages, 8, generator=generator)
    states = torch.randn(120, 8, generator=generator) + strength * directions[language]
    group = torch.arange(120) // 12
    groups = np.random.default_rng(3).permutation(10)
    first = np.isin(group, groups[:5])
    expected = []
    for train in (first, ~first):
        x, y = states.double().numpy(), language.numpy()
        standard = (x - x[train].mean(0)) / x[train].std(0)
        expected.append(RidgeClassifier().fit(standard[train], y[train]).score(standard[~train], y[~train]))
    assert m.language_probe(states, language, group, seed=3) == pytest.approx(np.mean(expected))


# --- mediation -----------------------------------------------------------------------------------------------


def slopes(y, *columns):
    """Least squares of standardised columns."""
    standard = [(c - c.mean()) / c.std() for c in (y, *columns)]
    return np.linalg.lstsq(np.stack(standard[1:], 1), standard[0])[0]


@given(st.integers(0, 1000), st.integers(6, 40))
def test_mediation_is_two_regressions(seed, n):
    draw = np.random.default_rng(seed)
    x = draw.normal(size=n)
    mediator = x + draw.normal(size=n)
    y = x - 2 * mediator + draw.normal(size=n)
    found = m.mediation(x, mediator, y)
    assert found["total"] == pytest.approx(slopes(y, x)[0])
    direct, by_mediator = slopes(y, x, mediator)
    assert found["direct"] == pytest.approx(direct)
    assert found["indirect"] == pytest.approx(slopes(mediator, x)[0] * by_mediator)
    moved = m.mediation(3 * x + 1, mediator, 2 * y - 5)
    assert moved == pytest.approx(found)


def test_mediation_by_hand():
    x = np.array([-1.0, -1.0, 1.0, 1.0])
    rest = np.array([-1.0, 1.0, -1.0, 1.0])  # orthogonal to x
    assert m.mediation(x, x + rest, x + rest) == pytest.approx(
        {"total": 0.5**0.5, "direct": 0.0, "indirect": 0.5**0.5}, abs=1e-12
    )
    assert m.mediation(x, rest, x) == pytest.approx({"total": 1.0, "direct": 1.0, "indirect": 0.0}, abs=1e-12)
    assert np.isnan(m.mediation(x, x, rest)["direct"])
    assert np.isnan(list(m.mediation(x, np.ones(4), rest).values())).all()


@pytest.mark.parametrize(
    ("x", "mediator", "told"),
    [
        ([1, 2, 3], [1, 2, 3], "at least 4"),
        ([1, 2, 3, 4], [1, 2, 3], "mediator .3,"),
        ([1, 2, 3, np.nan], [1] * 4, "nan"),
    ],
)
def test_mediation_refuses(x, mediator, told):
    with pytest.raises(ValueError, match=told):
        m.mediation(x, mediator, x)


# --- within models -------------------------------------------------------------------------------------------


@given(seeds)
def test_areas_are_those_of_scikit_learn(seed):
    draw = np.random.default_rng(seed)
    model = np.repeat(["a", "b", "c", "d"], [20, 30, 25, 5])
    score, right = draw.normal(size=80).round(1), draw.random(80) < 0.5
    right[:2], right[20:22], right[50:52] = (True, False), (True, False), (True, False)
    right[75:] = True  # says nothing
    score[3] = np.nan
    found = m.within_models(score, right, model, n_permutations=9)
    kept = ~np.isnan(score)
    areas = [roc_auc_score(right[of], score[of]) for of in (kept & (model == name) for name in "abc")]
    assert found.auc == pytest.approx(np.mean(areas)) and (found.n_models, found.n_left_out) == (3, 1)
    assert (found.auc, found.low, found.high) == pytest.approx(m.mean_interval(areas, within=(0, 1)))


def test_what_differs_between_models_alone_is_no_association_within_them():
    draw = np.random.default_rng(0)
    model = np.repeat(np.arange(6), 200)
    better = model / 5
    score, right = better + 0.1 * draw.normal(size=1200), draw.random(1200) < 0.1 + 0.8 * better
    assert roc_auc_score(right, score) > 0.75
    found = m.within_models(score, right, model)
    assert found.auc == pytest.approx(0.5, abs=0.05) and found.p > 0.05 and found.low < 0.5 < found.high
    found = m.within_models(score + 0.1 * right, right, model)
    assert found.auc == pytest.approx(stats.norm.cdf(1 / 2**0.5), abs=0.03) and found.p == 0.001 and found.low > 0.65


def test_p_values_within_models_are_as_often_small_as_they_say():
    draw = np.random.default_rng(1)
    model = np.repeat(np.arange(4), 12)
    p = [m.within_models(draw.normal(size=48), draw.random(48) < 0.5, model, 99, seed).p for seed in range(300)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05) and np.mean(p) == pytest.approx(0.5, abs=0.06)


def test_a_lost_checkerboard_is_told_from_a_diagonal_that_appears():
    """The control of the checkerboard claim fails where languages part less, whatever their facts do."""
    draw = np.random.default_rng(0)
    fact, own_a, own_b = torch.from_numpy(draw.normal(size=(3, 64, 128)))
    relation, offset = torch.arange(64) % 8, torch.from_numpy(draw.normal(size=(2, 1, 128)))

    def parts(shared, language):
        a, b = (shared * fact + own + language * o for own, o in zip((own_a, own_b), offset, strict=True))
        return m.checkerboard_contrast(a, b, relation), m.checkerboard_background(a, b, relation)

    separate, gained, lost = parts(0.0, 1.0), parts(1.0, 1.0), parts(0.0, 0.0)
    assert separate[0] - gained[0] > 0.15 and separate[1] - gained[1] < 0.2
    assert separate[0] - lost[0] > 0.15 and separate[1] - lost[1] > 0.4
    assert separate[0] == pytest.approx(separate[1], abs=0.02) and abs(lost[1]) < 0.02


def test_a_score_of_relations_passes_for_one_of_facts_until_it_is_dealt_out_within_them():
    """The control of a claim on facts: where relations alone tell, another fact of the relation tells as much."""
    draw = np.random.default_rng(0)
    model, relation = np.repeat(np.arange(4), 400), np.tile(np.arange(8), 200)
    groups = np.stack([model, relation], 1)
    right = draw.random(1600) < 0.2 + 0.6 * (relation < 4)
    of_relations, of_facts = (relation < 4) + draw.normal(0, 0.1, 1600), right + draw.normal(0, 1, 1600)
    assert m.within_models(of_relations, right, model, 9).low > 0.65
    assert m.within_models(m.shuffled_within(of_relations, groups), right, model, 9).low > 0.65
    assert m.within_models(of_facts, right, model, 9).low > 0.65
    assert 0.5 < m.within_models(m.shuffled_within(of_facts, groups), right, model, 9).auc < 0.65
    chance = draw.random(1600) < 0.5
    same = m.within_models(m.shuffled_within(chance + draw.normal(0, 1, 1600), groups), chance, model, 9)
    assert 0.47 < same.auc < 0.53


def test_shuffled_within_keeps_every_group():
    values, group = np.arange(12.0), np.tile(["a", "b", "c"], 4)
    dealt = m.shuffled_within(values, group, seed=3)
    assert (dealt != values).any()
    for name in "abc":
        assert sorted(dealt[group == name]) == sorted(values[group == name])
    alone = m.shuffled_within(values, np.stack([group, values], 1))
    np.testing.assert_array_equal(alone, values)
    with pytest.raises(ValueError, match=r"values, groups have \(12,\), \(3, 1\)"):
        m.shuffled_within(values, list("abc"))


def test_what_a_score_chooses():
    found = m.chosen_by([0.1, 0.9, 0.4, np.nan, 0.2, 0.2], [1, 2, 3, 9, 5, 6], list("xxxyyy"))
    assert found.to_dict() == {"x": 2, "y": 5}
    with pytest.raises(ValueError, match="score is nan in all rows of 'y'; allowed"):
        m.chosen_by([1.0, np.nan], [0, 0], ["x", "y"])
    with pytest.raises(ValueError, match="score, value, group have"):
        m.chosen_by([1.0], [0, 0], ["x", "y"])


def test_within_models_refuses():
    with pytest.raises(ValueError, match="right is all alike in each of 2 model"):
        m.within_models([0.1, 0.2, 0.3], [1, 1, 0], ["a", "a", "b"])
    with pytest.raises(ValueError, match=r"equal \[row\]"):
        m.within_models([0.1, 0.2], [1, 0], ["a"])
    with pytest.raises(ValueError, match="true and false"):
        m.within_models([0.1, 0.2], [1, np.nan], ["a", "a"])
    assert math.isnan(m.within_models([0.1, 0.2], [0, 1], ["a", "a"]).low)

"""Pairs of languages: likeness that can be counted by hand, and a test that respects what pairs share."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import tiny
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

import unifylens as ul
from unifylens.config import RealConfig
from unifylens.corpus import factsets
from unifylens.crosslingual import pairs


def symmetric(seed, n=7):
    table = np.random.default_rng(seed).normal(size=(n, n))
    return table + table.T


def test_real_languages_are_as_alike_as_they_look():
    config = RealConfig(locales=("en", "de", "ru", "uk", "ja"))
    experiment = ul.Experiment(real=config, language=ul.LanguageConfig(language_token=True))
    table = pairs.language_pairs(ul.Corpus.build(experiment))
    assert len(table) == 10
    alike = table[table["same script"] == 1]
    assert set(alike.index) == {("en", "de"), ("ru", "uk")}
    assert alike["lexical distance"].max() < table.drop(alike.index)["lexical distance"].min()
    assert (table.drop(alike.index)["same names"] == 0).all() and (alike["same names"] > 0.1).all()
    pd.testing.assert_series_equal(table["shared tokens"], table["same names"], check_names=False)  # names are tokens
    latin = experiment.replace(real=config.model_copy(update={"romanised": True}))
    assert (pairs.language_pairs(ul.Corpus.build(latin))["same script"] == 1).all()


def test_shared_words_are_shared_tokens():
    corpus = ul.Corpus.build(tiny(**{"language.shared_subjects": 0.5}))
    row = pairs.language_pairs(corpus).iloc[0]
    assert row["same names"] == row["shared tokens"] == 0.5


def test_informativeness_of_two_languages_is_that_of_the_corpus():
    skewed, even = (ul.Corpus.build(tiny(**{"corpus.object_skew": skew})) for skew in (1.0, 0.0))
    found = [pairs.language_pairs(corpus)["informativeness"].iloc[0] for corpus in (skewed, even)]
    stated = [c.statistics().loc["I(object; language | relation)", "value"] for c in (skewed, even)]
    np.testing.assert_allclose(found, stated)  # two languages are all there are
    assert found[0] > 5 * found[1]


def test_a_square_has_every_pair_twice():
    index = pd.MultiIndex.from_tuples([("a", "b"), ("a", "c"), ("b", "c"), ("c", "b")])
    table = pairs.square(pd.Series([1.0, 2.0, 3.0, 5.0], index))
    assert table.loc["a", "b"] == table.loc["b", "a"] == 1 and table.loc["b", "c"] == table.loc["c", "b"] == 4
    assert np.isnan(np.diag(table)).all()
    with pytest.raises(ValueError, match="the pair 'b', 'c' is missing"):
        pairs.square(pd.Series([1.0, 2.0], index[:2]))


@given(st.integers(0, 10_000))
def test_mantel_is_spearman_over_pairs(seed):
    x, y = symmetric(seed), symmetric(seed + 1)
    found, p = pairs.mantel(x, y, n_permutations=19)
    upper = np.triu_indices(7, 1)
    assert found == pytest.approx(spearmanr(x[upper], y[upper]).statistic)
    assert 1 / 20 <= p <= 1


def test_mantel_finds_what_is_there_and_nothing_else():
    x = symmetric(0)
    found, p = pairs.mantel(x, np.exp(x), n_permutations=999)
    assert found == pytest.approx(1) and p < 0.01
    p = [pairs.mantel(symmetric(s), symmetric(s + 1000), n_permutations=99)[1] for s in range(60)]
    assert 0.3 < np.mean(p) < 0.7 and np.mean(np.array(p) <= 0.1) < 0.25


def test_pairs_that_share_a_language_are_not_independent():
    # what each language brings alone orders all pairs: a test over pairs would find it far too often
    draw, naive, ours = np.random.default_rng(0), [], []
    for seed in range(40):
        a, b = draw.normal(size=(2, 8))
        x, y = a[:, None] + a, b[:, None] + b
        upper = np.triu_indices(8, 1)
        naive.append(spearmanr(x[upper], y[upper], alternative="greater").pvalue <= 0.05)
        ours.append(pairs.mantel(x, y, n_permutations=99, seed=seed)[1] <= 0.05)
    assert np.mean(naive) > 0.2 > np.mean(ours)


def test_scores_of_all_pairs_are_those_of_each_pair():
    draw = torch.Generator().manual_seed(0)
    common = torch.randn(13, 8, generator=draw)
    states = torch.stack(
        [torch.stack([common + noise * torch.randn(13, 8, generator=draw) for _ in range(4)]) for noise in (0.5, 2)]
    )
    relations = ["r"] * 5 + ["s"] * 7 + ["alone"]
    table = pairs.scores_by_pair(states, relations, "abcd")
    for row in table.itertuples():
        x, y = (states[row.layer, "abcd".index(name)] for name in (row.first, row.second))
        apart = [ul.measures.unification_variants(x[i:j], y[i:j]) for i, j in ((0, 5), (5, 12))]
        for name in ("unification", "centred", "retrieval_at_1"):
            assert getattr(row, name) == pytest.approx(np.mean([scores[name] for scores in apart]))
    near, far = table.groupby("layer")["centred"].mean()
    assert near > 2 * far > 0 and abs(table["centred_shuffled"].mean()) < 0.15
    same = pairs.scores_by_pair(torch.ones(1, 4, 13, 8), relations, "abcd")
    assert same[["unification", "centred"]].isna().all(axis=None), "states that are all alike have no score"


def test_what_is_given_is_taken_out():
    z = symmetric(5, 12)
    x, y = z + 0.2 * symmetric(6, 12), z + 0.2 * symmetric(7, 12)
    assert pairs.mantel(x, y, n_permutations=99)[0] > 0.8
    assert abs(pairs.mantel(x, y, [z], n_permutations=99)[0]) < 0.4


def test_tables_that_cannot_be_compared_are_refused():
    x = symmetric(0)
    for other, message in [(symmetric(0, 6), r"y has shape \(6, 6\)"), (np.ones((7, 7)), "does not vary")]:
        with pytest.raises(ValueError, match=message):
            pairs.mantel(x, other)
    with pytest.raises(ValueError, match=r"x has shape \(3, 3\).*four or more"):
        pairs.mantel(symmetric(0, 3), symmetric(1, 3))
    with pytest.raises(ValueError, match="not beyond what is given"):
        pairs.mantel(x, symmetric(1), [x])


# --- states and answers --------------------------------------------------------------------------------------


def a_fact_set(languages=("x", "y", "z"), n=12):
    rows = [
        (f"{r} {i}", r, language, f"s{i}", "?", f"o{i % 3}", ("other",))
        for language in languages
        for r in ("p", "q")
        for i in range(n)
    ]
    return factsets.check(pd.DataFrame(rows, columns=factsets.COLUMNS))


def test_unified_pairs_score_high_and_others_do_not():
    facts, draw = a_fact_set(), torch.Generator().manual_seed(0)
    x, z = torch.randn(2, 24, 16, generator=draw)
    near = x + 0.1 * torch.randn(24, 16, generator=draw) + 5  # an offset is a language's own
    table = pairs.unification_pairs(torch.stack([x, near, z])[None], facts).set_index(["first", "second"])
    assert table.loc[("x", "y"), "centred"] > 0.9 > 0.3 > abs(table.loc[("x", "z"), "centred"])
    assert abs(table["centred_shuffled"]).max() < 0.35
    with pytest.raises(ValueError, match=r"states has shape \[1, 2, 24, 16\]; allowed: \[layer, 3, 24, d_model\]"):
        pairs.unification_pairs(torch.zeros(1, 2, 24, 16), facts)


def test_scores_do_not_come_from_relations():
    facts, draw = a_fact_set(("x", "y")), torch.Generator().manual_seed(1)
    relation = torch.randn(2, 16, generator=draw).repeat_interleave(12, 0) * 10
    states = torch.stack([relation + torch.randn(24, 16, generator=draw) for _ in range(2)])[None]
    assert abs(pairs.unification_pairs(states, facts)["centred"].item()) < 0.3


def test_answers_of_pairs_are_counted_as_eclektic_does():
    facts = a_fact_set(("x", "y"), n=4)
    right = {"x": [1, 1, 1, 1, 0, 0, 0, 0], "y": [1, 1, 0, 0, 1, 0, 0, 0]}
    answers = facts.assign(right=[bool(v) for language in ("x", "y") for v in right[language]])
    row = pairs.answer_pairs(answers).loc[("x", "y")]
    assert row["overall"] == 2 / 8 and row["transfer"] == pytest.approx(4 / 7) and row["jaccard"] == 2 / 5
    # facts of a third language do not count, and transfer starts where a fact is from
    known = facts["fact"].drop_duplicates().tolist()
    original = dict(zip(known, ["x", "x", "y", "y", "y", "z", "x", "z"], strict=True))
    row = pairs.answer_pairs(answers.assign(original=answers["fact"].map(original))).loc[("x", "y")]
    assert row["overall"] == 2 / 6 and row["transfer"] == pytest.approx(2 / 3)
    assert row["jaccard"] == 2 / 5
    nothing = pairs.answer_pairs(answers.assign(right=False)).iloc[0]
    assert nothing["overall"] == 0 and np.isnan(nothing["transfer"]) and np.isnan(nothing["jaccard"])


def test_a_direction_with_few_facts_weighs_little():
    """One of one in one direction and none of ten in the other is 1 of 11, and not a half."""
    facts = a_fact_set(("x", "y"), n=6)
    known = facts["fact"].drop_duplicates().tolist()
    answers = facts.assign(original=facts["fact"].map({fact: "x" if fact == known[0] else "y" for fact in known}))
    answers["right"] = ((answers["language"] == "y") & (answers["fact"] != known[-1])) | (answers["fact"] == known[0])
    assert answers.loc[answers["original"] == "y"].query("language == 'y'")["right"].sum() == 10
    assert pairs.answer_pairs(answers).loc[("x", "y"), "transfer"] == pytest.approx(1 / 11)


# --- several cuts of one set ---------------------------------------------------------------------------------


def test_one_cut_is_mantels_own_test():
    x, y, z = (symmetric(seed) for seed in (0, 1, 2))
    found = pairs.mantel_over_cuts([(x, y, [z])], n_permutations=99)
    assert (found.r, found.p) == pairs.mantel(x, y, [z], n_permutations=99) and len(found.chance) == 99
    assert found.by_cut.tolist() == [found.r]
    values = pairs.mantel_over_cuts([(x, y, [])], ranks=False, n_permutations=1).r
    upper = np.triu_indices(7, 1)
    assert values == pytest.approx(np.corrcoef(x[upper], y[upper])[0, 1])


def test_cuts_of_the_same_facts_are_no_more_evidence_than_one():
    """The counter-example: four cuts alike. Their joint p is that of one; Fisher's sum would make it tiny."""
    x, y = symmetric(4), symmetric(5)
    one, four = (pairs.mantel_over_cuts([(x, y, [])] * n, n_permutations=199) for n in (1, 4))
    assert four.r == pytest.approx(one.r) and four.p == one.p
    # many sets without anything in them: the joint p is small no more often than it says
    p = []
    for seed in range(40):
        noise = [symmetric(1000 * seed + k + 1) for k in range(4)]
        x, y = symmetric(7 * seed), symmetric(7 * seed + 90_000)
        p.append(pairs.mantel_over_cuts([(x + 0.3 * e, y + 0.3 * e.T, []) for e in noise], n_permutations=19).p)
    assert np.mean(np.array(p) <= 0.1) < 0.25


def test_what_each_language_brings_alone_is_taken_out_and_what_pairs_have_is_not():
    """Languages known well and like all others: by ranks a strong correlation, with main effects out none."""
    draw = np.random.default_rng(0)
    one = draw.normal(size=12)
    alone = 5 * (one[:, None] + one)
    x, y = alone + symmetric(1, 12) / 5, alone + symmetric(2, 12) / 5
    for ranks in (True, False):
        raw = pairs.mantel_over_cuts([(x, y, [])], ranks=ranks, n_permutations=199)
        own = pairs.mantel_over_cuts([(x, y, [])], ranks=ranks, languages_out=True, n_permutations=199)
        assert raw.r > 0.9 and raw.p <= 0.01 and abs(own.r) < 0.3 and own.p > 0.05, "nothing is left"
    upper = np.triu_indices(12, 1)
    languages = np.stack([((upper[0] == k) | (upper[1] == k)).astype(float) for k in range(12)], 1)
    bent = [r - languages @ np.linalg.lstsq(languages, r)[0] for r in (rankdata(t[upper]) for t in (x, y))]
    assert np.corrcoef(*bent)[0, 1] > 0.8, "which is why languages are taken off before ranks, and not after"
    shared = symmetric(3, 12)
    x, y = alone + shared, 0.2 * draw.normal(size=12)[:, None]
    y = y + y.T + shared
    assert pairs.mantel_over_cuts([(x, y, [])], ranks=False, languages_out=True, n_permutations=99).r > 0.95
    with pytest.raises(ValueError, match="does not vary over pairs"):
        pairs.mantel_over_cuts([(alone, shared, [])], ranks=False, languages_out=True)


def test_cuts_that_cannot_be_compared_are_refused():
    x = symmetric(0)
    with pytest.raises(ValueError, match="cuts is empty; allowed: one or more"):
        pairs.mantel_over_cuts([])
    with pytest.raises(ValueError, match=r"x of cut 1 has shape \(6, 6\)"):
        pairs.mantel_over_cuts([(x, x, []), (symmetric(0, 6), symmetric(1, 6), [])])


def test_no_fact_is_both_chosen_on_and_reported():
    facts = a_fact_set(n=12)
    chosen, parts = pairs.cuts(facts, 4, seed=3)
    every = [*chosen, *(fact for part in parts for fact in part)]
    assert sorted(every) == sorted(set(facts["fact"])) and len(every) == 24
    assert len(chosen) == 8 and {len(part) for part in parts} == {4}
    for part in (chosen, *parts):
        assert {fact[0] for fact in part} == {"p", "q"}, "of both relations"
    assert pairs.cuts(facts, 4, seed=3) == (chosen, parts) != pairs.cuts(facts, 4, seed=4)
    with pytest.raises(ValueError, match="'p' has 12 facts for n=9; allowed: one part or more, and facts for each"):
        pairs.cuts(facts, 9)
    with pytest.raises(ValueError, match="n is 0"):
        pairs.cuts(facts, 0)


def test_correlations_over_cuts_are_of_tables_by_pair():
    names = [(a, b) for i, a in enumerate("abcdef") for b in "abcdef"[i + 1 :]]
    tables = []
    for seed in range(2):
        x, y = np.random.default_rng(seed).normal(size=(2, len(names)))
        tables.append(
            pd.DataFrame({"first": [a for a, _ in names], "second": [b for _, b in names], "x": x, "y": x + y})
        )
    found = pairs.correlation_over_cuts(tables, "x", "y", n_permutations=19)
    assert found.by_cut.tolist() == pytest.approx([spearmanr(t["x"], t["y"]).statistic for t in tables])
    given = [[t.set_index(["first", "second"])["y"] + np.random.default_rng(9).normal(size=len(t))] for t in tables]
    assert pairs.correlation_over_cuts(tables, "x", "y", given, n_permutations=19).r < found.r
    r, low, high = pairs.interval_over_cuts(tables, "x", "y")
    assert r == pytest.approx(found.r) and low < r < high
    assert pairs.interval_over_cuts(tables[:1] * 2, "x", "y")[1:] == pytest.approx(
        pairs.interval_over_cuts(tables[:1], "x", "y")[1:]
    ), "the same cut twice tells nothing more"

"""Edits across languages, judged: planted tables in which each sentence is true, and others in which it is false."""

import itertools

import numpy as np
import pandas as pd
import pytest

from unifylens import claims, designs, measures
from unifylens.config import Experiment
from unifylens.corpus import Corpus
from unifylens.evidence import edits_cross as crossing

LEVELS, SEEDS, N_FACTS, N_RELATIONS = (0.1, 0.15, 0.2), (0, 1, 2, 3), 120, 8
LABELS = ["parallel", "seed"]


@pytest.fixture(autouse=True)
def figures(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path))


def judged(arrived, others=0.0, of_relation=False, seed=0):
    """As `editing.judged` gives: of the gain at home, 10, `arrived(parallel, score)` is gained elsewhere.

    Scores differ between facts, or, `of_relation`, hardly but between relations.
    """
    draw, tables = np.random.default_rng(seed), []
    for parallel, run in itertools.product(LEVELS, SEEDS):
        relation = np.arange(N_FACTS) % N_RELATIONS
        score = draw.normal(size=N_RELATIONS)[relation] if of_relation else draw.normal(size=N_FACTS)
        score = score + 0.01 * draw.normal(size=N_FACTS)
        share = arrived(parallel, score) + 0.1 * draw.normal(size=N_FACTS)
        home = np.where(np.arange(N_FACTS) < N_FACTS // 2, "a", "b")
        for asked in "ab":
            own = asked == home
            gain = np.where(own, 10.0, 10 * share)
            columns = {
                "edit": np.arange(N_FACTS),
                "fact": np.arange(N_FACTS)[::-1],
                "relation": relation,
                "edited": home,
                "asked": asked,
                "gain": gain,
                "control_gain": 10 * others,
                "score": score,
                "answered": own | (share > 0.5),
                "paraphrase": np.nan,
                "neighbours": 0.9,
                "relations": 1.0,
                "before": False,
                "known": True,
                "control": 0.0,
                "parallel": parallel,
                "seed": run,
            }
            tables.append(pd.DataFrame(columns))
    return pd.concat(tables, ignore_index=True)


def test_an_edit_has_one_row_with_what_it_does_at_home_and_elsewhere():
    table = judged(lambda parallel, score: 4 * parallel + 0 * score)
    found = crossing.by_edit(table, LABELS)
    assert len(found) == len(LEVELS) * len(SEEDS) * N_FACTS
    assert (found["gain"] == 10).all() and (found["efficacy"] == 1).all()
    np.testing.assert_allclose(found["arrived"], found["gain_elsewhere"] / 10)
    # scores and gains are those of one fact, in whatever order the table stands
    mixed = crossing.by_edit(table.sample(frac=1, random_state=0), LABELS)
    pd.testing.assert_frame_equal(found, mixed)
    one = table[(table["parallel"] == 0.1) & (table["seed"] == 2) & (table["edit"] == 7)].set_index("asked")
    row = found[(found["parallel"] == 0.1) & (found["seed"] == 2) & (found["edit"] == 7)].iloc[0]
    assert (row["score"], row["gain_elsewhere"]) == (one.loc["a", "score"], one.loc["b", "gain"])
    lost = table.copy()
    lost.loc[lost["asked"] == lost["edited"], "gain"] = -1.0
    assert crossing.by_edit(lost, LABELS)["arrived"].isna().all()


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda table: table[(table["asked"] != "a") | (table["edit"] != 3)],
        lambda table: table[(table["asked"] != "b") | (table["edit"] != 3)],
        lambda table: table.assign(seed=0),
    ],
)
def test_edits_that_were_not_asked_everywhere_or_are_mixed_up_are_refused(spoilt):
    with pytest.raises(ValueError, match="lacks an edit at home or elsewhere, or labels"):
        crossing.by_edit(spoilt(judged(lambda parallel, score: parallel + 0 * score)), LABELS)


def test_a_model_crosses_by_what_arrives_and_its_control_sees_what_spills():
    models = crossing.by_model(crossing.by_edit(judged(lambda p, score: 4 * p + 0 * score), LABELS), LABELS)
    assert models.groupby("parallel")["crossing"].mean().to_numpy() == pytest.approx([0.4, 0.6, 0.8], abs=0.02)
    assert models.groupby("parallel")["carry_over"].mean().is_monotonic_increasing
    assert crossing.most_by_others(models) == pytest.approx([0.0] * 4)
    for spilt in (0.4, -0.4):
        spills = crossing.by_edit(judged(lambda p, score: p + 0 * score, others=spilt), LABELS)
        assert crossing.most_by_others(crossing.by_model(spills, LABELS)) == pytest.approx([0.4] * 4)


def test_b6_edits_is_of_edits_that_spare_other_facts():
    score = np.tile([0.3, 0.5, 0.6, 0.8, 0.9, 0.95], 4)
    seeds = np.repeat(SEEDS, 6)
    carried = score + np.random.default_rng(0).normal(scale=0.05, size=24)
    interval = measures.statistic_interval(measures.rank_correlation, score, carried, groups=seeds)
    near = np.array([0.0, 0.01, 0.02, 0.03])
    assert claims.record("B6-edits", interval=interval, control=near, seeds=SEEDS).holds
    spills = claims.record("B6-edits", interval=interval, control=0.4 + near, seeds=SEEDS)
    assert not spills.control["holds"] and not spills.holds
    noise = np.random.default_rng(1).permutation(carried)
    interval = measures.statistic_interval(measures.rank_correlation, score, noise, groups=seeds)
    assert not claims.record("B6-edits", interval=interval, control=near, seeds=SEEDS).holds


def recorded_fact_by_fact(table):
    edits = crossing.by_edit(table, LABELS)
    chance = crossing.within_relations_by_chance(edits, 200)
    assert abs(chance.mean()) < 0.01
    return claims.record("B6-fact", effect=crossing.within_relations(edits), permuted=chance, seeds=SEEDS)


def test_facts_that_let_through_by_their_score_are_found_and_relations_that_do_are_not():
    by_fact = recorded_fact_by_fact(judged(lambda p, score: 0.3 + 0.05 * score))
    assert by_fact.holds and by_fact.effect == pytest.approx(0.43, abs=0.05)
    by_relation = judged(lambda p, score: 0.3 + 0.05 * score, of_relation=True)
    edits = crossing.by_edit(by_relation, LABELS)
    over_all = measures.rank_correlation(edits["score"].to_numpy(), edits["arrived"].to_numpy())
    found = recorded_fact_by_fact(by_relation)
    assert over_all > 0.3 and abs(found.effect) < 0.06
    assert not found.holds and not found.control["holds"]


def test_correlation_within_relations_by_hand():
    table = pd.DataFrame(
        {
            "seed": 0,
            "parallel": 0.1,
            "relation": [0, 0, 0, 1, 1, 1, 1],
            "score": [1.0, 2, 3, 30, 20, 10, np.nan],
            "arrived": [0.7, 0.8, 0.9, 0.1, 0.2, 0.3, 0.4],
        }
    )
    assert crossing.within_relations(table) == pytest.approx([0.0])  # 1 in one relation, -1 in the other
    assert crossing.within_relations(table[table["relation"] == 0]) == pytest.approx([1.0])
    assert crossing.within_relations_by_chance(table, 300).mean() == pytest.approx(0, abs=0.05)


def angles(unified, separate, different):
    rows = [
        {"parallel": parallel, "seed": seed, "cosine": cosine + 0.01 * seed * edit, "control": different}
        for parallel, cosine in ((0.6, unified), (0.0, separate))
        for seed, edit in itertools.product(SEEDS, (-1, 0, 1))
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("planted", "holds", "control"),
    [
        ((0.5, 0.05, 0.0), True, True),
        ((0.3, 0.25, 0.0), False, False),  # one angle everywhere
        ((0.5, 0.05, 0.4), False, False),  # all edits of a unified model are alike, of whatever fact
        ((0.1, 0.05, 0.0), False, True),
    ],
)
def test_angles_tell_unified_from_separate_and_the_same_fact_from_another(planted, holds, control):
    table = angles(*planted)
    effect = crossing.apart(table, unified=0.6, separate=0.0)
    worst = crossing.not_orthogonal(table, unified=0.6, separate=0.0)
    assert effect == pytest.approx([planted[0] - planted[1]] * 4)
    assert worst == pytest.approx([max(planted[1:])] * 4)
    found = claims.record("B6-angle", effect=effect, control=worst, seeds=SEEDS)
    assert (found.holds, found.control["holds"]) == (holds, control)


# --- what is trained -----------------------------------------------------------------------------------------


def test_models_to_edit_are_sixty_with_ten_seeds_and_differ_in_what_they_say(monkeypatch):
    monkeypatch.setenv("UNIFYLENS_SEEDS", "10")
    levels, words, templates = designs.edited_levels(), designs.edited_words(), designs.edited_templates()
    together = [experiment for design in (levels, words, templates) for _, experiment in design]
    assert len(levels) == 60 and len(set(together)) == len(together)
    ends = designs.UNIFIED_AND_SEPARATE
    assert {ends["unified"], ends["separate"], *designs.MIDDLING_PARALLEL} <= set(designs.EDITED_PARALLEL)
    for labels, experiment in levels:
        assert experiment == designs.small(**{"corpus.parallel": labels["parallel"], "seed": labels["seed"]})


def test_object_words_are_shared_where_it_is_said_alone(monkeypatch):
    monkeypatch.setenv("UNIFYLENS_SEEDS", "2")

    def same(experiment: Experiment) -> tuple[float, float]:
        a, b = Corpus.build(experiment).languages
        return tuple(np.mean(np.array(getattr(a, k)) == np.array(getattr(b, k))) for k in ("subjects", "objects"))

    assert same(designs.edited_levels()[0][1]) == (1, 0)
    found = {labels["words"]: same(experiment) for labels, experiment in designs.edited_words()}
    assert list(found.values()) == [(0, 1), (1, 1)]
    corpus = Corpus.build(designs.edited_templates()[0][1])
    assert len(corpus.templates) == 2

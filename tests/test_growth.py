"""A third language, judged: planted tables in which each sentence is true, and others in which it is false."""

import numpy as np
import pandas as pd
import pytest
from conftest import quietly, tiny

import unifylens as ul
from unifylens.designs import growth as designs
from unifylens.evidence import growth

ROWS = [
    # asked, home, kind, copies, n, right
    ("a", "a", "monolingual", 1, 10, 1.0),
    ("b", "a", "held-out", 1, 10, 0.2),
    ("b", "b", "majority", 2, 30, 0.8),
    ("a", "b", "held-out", 1, 30, 0.6),
    ("c", "a", "held-out", 1, 10, 0.9),
    ("c", "b", "held-out", 1, 10, 0.0),
    ("c", "b", "held-out", 2, 20, 0.15),
    ("c", "b", "minority", 2, 5, 0.4),
]


def answers(**labels):
    return pd.DataFrame(ROWS, columns=["asked", "home", "kind", "copies", "n", "right"]).assign(**labels)


def test_every_question_counts_alike():
    (row,) = growth.summary(answers(seed=0), ["seed"]).to_dict("records")
    expected = {"recall": 34 / 40, "transfer": 20 / 40, "forward": 12 / 40, "learnt": 0.4}
    expected |= {"forward from a": 0.9, "forward from b": 0.1}
    expected |= {"forward, parallel": 0.15, "forward, monolingual": 9 / 20}
    expected |= {"forward from a, parallel": np.nan, "forward from a, monolingual": 0.9}
    expected |= {"forward from b, parallel": 0.15, "forward from b, monolingual": 0.0}
    assert row == pytest.approx(expected, nan_ok=True)
    old = answers(seed=0).query("asked != 'c'")
    assert growth.summary(old, ["seed"], new=None).loc[0].to_dict() == pytest.approx({"recall": 0.85, "transfer": 0.5})
    with pytest.raises(ValueError, match="new='c' is not asked in answers; allowed: a, b"):
        growth.summary(old, ["seed"])


def test_models_without_parallel_facts_have_nan_for_them_beside_others_that_have_some():
    separate = answers(model="separate").query("asked != 'c' or copies == 1")
    alone = growth.summary(separate, ["model"])
    assert np.isnan(alone.loc["separate", "forward, parallel"])
    assert alone.loc["separate", "forward"] == alone.loc["separate", "forward, monolingual"] == pytest.approx(0.45)
    both = growth.summary(pd.concat([separate, answers(model="an other")]), ["model"])
    assert list(both["forward, parallel"].isna().items()) == [("separate", True), ("an other", False)], "in their order"


def test_what_changed_is_against_the_same_model():
    index = pd.MultiIndex.from_tuples([("x", 0), ("x", 1), ("y", 0), ("y", 1)], names=["model", "seed"])
    before = pd.DataFrame({"recall": [1.0, 0.9, 0.8, 0.7], "transfer": [0.4, 0.3, 0.2, 0.1]}, index=index)
    grown = pd.MultiIndex.from_tuples([("y", 1, 0.5), ("x", 1, 0.5), ("x", 1, 0.0)], names=["model", "seed", "replay"])
    after = pd.DataFrame({"recall": [0.6, 0.9, 0.0], "transfer": [0.3, 0.3, 0.0]}, index=grown)
    found = growth.changed(after, before)
    assert found["forgetting"].tolist() == pytest.approx([0.1, 0.0, 0.9])
    assert found["backward"].tolist() == pytest.approx([0.2, 0.0, -0.3])
    with pytest.raises(KeyError):
        growth.changed(after, before.drop(index=("y", 1)))


def courses(unified, separate):
    """Transfer by step 10, 20, 40, 80 of two seeds of each model."""
    rows = {
        (model, seed, step): {"forward": value}
        for model, values in (("unified", unified), ("separate", separate))
        for seed in (0, 1)
        for step, value in zip((80, 40, 20, 10), reversed(values), strict=True)  # in no order
    }
    return pd.DataFrame(rows.values(), index=pd.MultiIndex.from_tuples(rows, names=["model", "seed", "step"]))


def test_the_first_step_at_a_level_counts_and_who_never_comes_there_is_censored():
    first = growth.steps_until(courses([0.1, 0.5, 0.2, 0.9], [0.1, 0.2, 0.2, 0.3]), "forward", 0.5)
    assert first.loc[("unified", 0)].tolist() == [20, True]
    assert first.loc[("separate", 1)].tolist() == [80, False]
    assert growth.doublings(first, "separate", "unified").tolist() == [2.0, 2.0]
    with pytest.raises(KeyError):
        growth.doublings(first, "scattered", "unified")


def test_a_model_that_learns_faster_altogether_fails_the_control_of_b8():
    slow, fast = [0.0, 0.0, 0.0, 0.9], [0.9, 0.9, 0.9, 0.9]
    alike = growth.doublings(growth.steps_until(courses(slow, slow), "forward", 0.9), "separate", "unified")
    faster = growth.doublings(growth.steps_until(courses(fast, slow), "forward", 0.9), "separate", "unified")
    claim = ul.claims.CLAIMS["B8"]
    assert claim.control_passes(alike.min(), alike.max()) and not claim.control_passes(faster.min(), faster.max())


def test_the_least_difference_counts():
    index = pd.MultiIndex.from_product([["u", "s"], ["mean", "random"], [1, 0]], names=["model", "way", "seed"])
    table = pd.DataFrame({"forward": [0.9, 0.8, 0.5, 0.7, 0.1, 0.2, 0.4, 0.5]}, index=index)
    assert growth.difference(table, "forward", "model", "u", "s", ["way"]).tolist() == pytest.approx([0.2, 0.1])
    assert growth.difference(table, "forward", "model", "u", "s").tolist() == pytest.approx([0.4, 0.45])
    with pytest.raises(KeyError):
        growth.difference(table, "forward", "model", "u", "t")


def test_a_language_that_finds_the_facts_of_one_home_alone_fails_the_control_of_b8_home():
    claim = ul.claims.CLAIMS["B8-home"]
    one_sided = growth.summary(answers(seed=0), ["seed"])
    gap = (one_sided["forward from a"] - one_sided["forward from b"]).abs()
    assert claim.passes(gap.min(), gap.max()) and not claim.control_passes(gap.min(), gap.max())


def test_answers_by_language_are_those_of_transfer_and_recall():
    (run,) = quietly(tiny(**{"language.n_languages": 3}))
    table = ul.evaluate.by_language(run).reset_index()
    held = table[table["kind"] == "held-out"].groupby("asked")
    transfer = ul.transfer(run)
    assert held["n"].sum().to_dict() == transfer["n"].to_dict() and table["n"].sum() == run.corpus.n_rows
    right = held.apply(lambda rows: np.average(rows["right"], weights=rows["n"]), include_groups=False)
    assert right.to_dict() == pytest.approx(transfer["right"].to_dict())
    seen = table[table["kind"] != "held-out"]
    assert np.average(seen["right"], weights=seen["n"]) == pytest.approx(run.final["recall"])
    told = run.corpus.seen.sum(0)
    assert table.groupby("copies")["n"].sum().to_dict() == {n: 3 * (told == n).sum() for n in set(told)}
    course = growth.course(run)
    assert list(course.index.get_level_values("step").unique()) == run.steps
    assert course.xs(run.steps[-1], level="step").equals(ul.evaluate.by_language(run))


SEEDS = (0, 1)
DESIGNS = {
    "beginnings": designs.beginnings(SEEDS),
    "replays": designs.replays(SEEDS),
    "told": designs.shares_told(SEEDS),
    "of": designs.told_of_one(SEEDS),
    "orders": designs.orders(SEEDS),
    **{words: designs.beginnings(SEEDS, words) for words in designs.WORDS},
}


@pytest.mark.parametrize("name", DESIGNS)
def test_growths_begin_with_what_the_finished_models_knew(name):
    from unifylens.training.start import refuse_what_does_not_fit

    for labels, experiment in DESIGNS[name]:
        assert experiment.seed == labels["seed"]
        corpus, start = ul.build_corpus(experiment), ul.build_corpus(experiment.start.experiment)
        refuse_what_does_not_fit(experiment, corpus)
        assert (corpus.seen[:2] == start.seen).all() and (corpus.home == start.home).all()
        replay = labels.get("replay", designs.REPLAY)
        assert corpus.exposure[:2].sum() == pytest.approx(replay, abs=2e-6)
        n_told = labels.get("told", designs.TOLD) * (
            600 if labels.get("of") is None else (start.home == labels["of"]).sum()
        )
        assert corpus.seen[2].sum() == round(n_told)


def test_facts_of_one_home_are_those_that_one_old_language_was_told():
    for kind, parallel in (("unified", 360), ("separate", 0)):
        corpus = ul.build_corpus(designs.grown(designs.finished(kind)))
        old, asked = corpus.seen[:2].sum(0), ~corpus.seen[2]
        assert (old == 2).sum() == parallel and (corpus.seen.sum(0)[asked] == old[asked]).all()


def test_unified_and_separate_models_differ_in_parallel_facts_alone():
    one, other = (designs.finished(kind) for kind in ("unified", "separate"))
    assert one.replace(**{"corpus.parallel": 0.0}) == other
    alone = designs.one_after_the_other("unified")
    assert alone.replace(corpus=one.corpus, changes=()) == one
    untaught = designs.untaught(one)
    assert untaught.replace(start=designs.grown(one).start) == designs.grown(one, "random")
    assert [e for _, e in designs.from_nothing([0])] == [untaught, designs.untaught(other)]

"""Whence answers come, judged: planted influence and losses where each sentence is true, and where it is not."""

import numpy as np
import pandas as pd
import pytest

import unifylens as ul
from unifylens.designs import tracing
from unifylens.evidence import whence_answers as wa

N, PROMPTS = 200, 30
TWIN = np.arange(PROMPTS)
ALIKE = (np.arange(N)[:, None] % 10 == TWIN % 10) & (np.arange(N)[:, None] != TWIN)
"""Examples with a prompt's relation and answer: one in ten."""


def planted(twin, alike, seed=0):
    """Influence of noise around 0, and more of the twin and of examples with the same answer."""
    noise = np.random.default_rng(seed).normal(size=(N, PROMPTS))
    return noise + alike * ALIKE + twin * (np.arange(N)[:, None] == TWIN)


def test_lift_and_rank_by_hand():
    influence = np.array([[3.0, -1.0], [1.0, 0.0], [-2.0, 1.0], [0.0, 3.0]])
    assert wa.lifts(influence, np.array([0, 2])) == pytest.approx([3.0, 1.0])
    assert wa.ranks(influence, np.array([0, 2])).tolist() == [1, 2]
    assert wa.ranks(influence, np.array([2, 0])).tolist() == [4, 4]


def test_a_twin_that_is_singled_out_is_beyond_its_name_dealt_out():
    influence = planted(twin=8.0, alike=2.0)
    assert wa.lifts(influence, TWIN).mean() > np.quantile(wa.dealt(influence, ALIKE), 0.975) + 3
    assert np.median(wa.ranks(influence, TWIN)) == 1


def test_a_twin_that_only_has_the_answer_is_not():
    """The counter-example: no more of it than of other facts of its answer, though its lift is far above 1."""
    influence = planted(twin=2.0, alike=2.0, seed=1)
    lift, anything = wa.lifts(influence, TWIN).mean(), np.ones_like(ALIKE)
    assert lift > np.quantile(wa.dealt(influence, anything), 0.975), "among all examples it would seem singled out"
    assert lift < np.quantile(wa.dealt(influence, ALIKE), 0.975)
    assert wa.dealt(influence, anything).mean() == pytest.approx(1, abs=0.05)
    with pytest.raises(ValueError, match="prompt 3 has no example"):
        wa.dealt(influence, ALIKE & (TWIN != 3))


def test_late_less_early():
    steps = pd.Index([20, 40, 100, 300, 400], name="step")
    assert wa.late_less_early(pd.Series([1.0, 3.0, 50.0, 10.0, 20.0], steps), 400) == 13
    assert wa.late_less_early(pd.Series(7.0, steps), 400) == 0
    with pytest.raises(ValueError, match="some up to 40 and some after 200"):
        wa.late_less_early(pd.Series([1.0], steps[2:3]), 400)


def trainings(own, others, random):
    """Trainings without three groups' twins and one without random examples, each asked for three groups."""
    rows = []
    for number in range(4):
        for group in range(3):
            lost = random if number == 3 else own if number == group else others
            rows.append({"number": number, "group": group, "left_out": "random" if number == 3 else "twins"})
            rows[-1] |= {"kind": "unified", "seed": 0, "change": -lost}
    return pd.DataFrame(rows)


def test_losses_are_told_apart():
    (found,) = wa.losses(trainings(4.0, 0.1, 0.5)).to_dict("records")
    assert found == pytest.approx({"own": 4.0, "others": 0.1, "random": 0.5, "beyond": 3.5})


def test_a_loss_that_any_change_of_the_examples_brings_is_none_of_the_twins():
    """The counter-examples: all trainings lose as much; or all without as many facts of one language do."""
    for others, random in ((4.0, 4.0), (4.0, 0.0), (0.0, 4.0)):
        assert wa.losses(trainings(4.0, others, random))["beyond"].tolist() == pytest.approx([0.0])


# --- the experiments -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def design():
    return [entry for entry in tracing.traced() if entry[0]["seed"] == 1]


def test_kinds_differ_in_shared_words_alone(design):
    assert [labels["kind"] for labels, _ in design] == list(tracing.SHARED_BY_KIND)
    assert len({e.replace(**{"language.shared_subjects": 0.0}) for _, e in design}) == 1
    assert len(tracing.traced()) == len(tracing.SHARED_BY_KIND) * len(ul.designs.seeds())


def test_twins_are_the_asked_facts_where_they_are_told(design):
    corpus = ul.build_corpus(design[0][1])
    prompts = tracing.asked(corpus, 1).ravel()
    assert len(set(prompts)) == tracing.N_GROUPS * tracing.N_OF_GROUP and not corpus.seen.ravel()[prompts].any()
    rows, same = ul.influence.examples(corpus), tracing.same_answer(corpus, prompts)
    for i, (prompt, twin) in enumerate(zip(prompts, rows[tracing.twins(corpus, prompts)], strict=True)):
        (language, fact), (home, told) = divmod(prompt, corpus.n_facts), divmod(twin, corpus.n_facts)
        assert told == fact and home == corpus.home[fact] != language
        alike = rows[same[:, i]]
        assert len(alike) and twin not in alike and set(alike // corpus.n_facts) == {home}
        for of in (corpus.world.relation, corpus.world.object):
            assert set(of[alike % corpus.n_facts]) == {of[fact]}
    with pytest.raises(ValueError, match="is told itself; allowed: rows that are held out"):
        tracing.twins(corpus, rows[:1])


def test_trainings_without_twins_lose_those_of_one_group_each(design):
    found = tracing.left_out(design[:1])
    corpus = ul.build_corpus(design[0][1])
    twins = [set(ul.influence.examples(corpus)[tracing.twins(corpus, group)]) for group in tracing.asked(corpus, 1)]
    lost = [set(experiment.interventions[0].rows) for _, experiment in found]
    assert lost[: tracing.N_GROUPS] == twins and [labels["number"] for labels, _ in found] == [0, 1, 2, 3]
    assert len(lost[-1]) == tracing.N_OF_GROUP and not lost[-1] & set.union(*twins)
    assert [labels["left_out"] for labels, _ in found] == ["twins"] * 3 + ["random"]

"""What decides: facts go one way each, and a regression foretells other dishes only from what it is given."""

import numpy as np
import pandas as pd
import pytest
from conftest import tiny

import unifylens as ul
from unifylens.evidence import what_decides


def made_up(n_dishes=4, n=400, slope=2.0, seed=0):
    """Facts whose crossing depends on `signal`, and not on `noise`; dishes differ in their level."""
    draw = np.random.default_rng(seed)
    dish = np.repeat(np.arange(n_dishes), n)
    signal, noise = draw.normal(size=(2, n_dishes * n))
    chance = 1 / (1 + np.exp(-slope * signal - dish + 1.5))
    right = draw.random(n_dishes * n) < chance
    return pd.DataFrame({"dish": dish, "signal": signal, "noise": noise, "right": right})


def test_each_fact_goes_the_first_way_that_is_open():
    rows = [
        (True, 1, 1, True),
        (False, 1, 1, True),
        (False, -1, 1, False),
        (False, -1, -1, False),
        (False, -1, -1, True),
    ]
    facts = pd.DataFrame(rows, columns=["right", "margin", "margin_corrected", "shared_subject"])
    assert what_decides.ways(facts).tolist() == list(what_decides.WAYS)


def test_ways_of_a_model_add_up_to_its_transfer(trained):
    facts = ul.by_fact(trained)
    way = what_decides.ways(facts)
    assert (way == "crosses").mean() == pytest.approx(facts["right"].mean())
    lost = facts[way == "beyond the output prior"]
    assert not (lost["margin_corrected"] > 0).any() and lost["shared_subject"].all()


def test_predictors_are_those_of_the_models_own_dishes(trained):
    facts = ul.by_fact(trained)
    both = pd.concat([facts.assign(dish=0), facts.assign(dish=1)], ignore_index=True)
    first, second = trained.experiment, trained.experiment.replace(**{"corpus.parallel": 0.9})
    told = what_decides.with_predictors(both, {(0,): first, (1,): second}, ["dish"])
    shares = told.groupby("dish")["share of parallel facts"].unique()
    assert [float(share[0]) for share in shares] == [first.corpus.parallel, 0.9]
    usual = told["frequency of the answer"]
    n = first.world.n_objects
    assert np.allclose(usual, np.log2(both["frequency_asked"].fillna(0).clip(lower=1e-4) * n))
    columns = [column for columns in what_decides.PREDICTORS.values() for column in columns]
    assert told[columns].notna().all(axis=None) and set(told["own word shared"]) <= {0.0, 1.0}
    with pytest.raises(KeyError, match=r"experiments lacks .*1.*; allowed: one for each model"):
        what_decides.with_predictors(both, {(0,): tiny()}, ["dish"])


def test_what_tells_is_told_apart_from_what_does_not():
    facts = made_up()
    told = what_decides.foretold(facts, ["signal", "noise"])
    assert list(told.index) == [0, 1, 2, 3] and told.min() > 0.75
    assert what_decides.foretold(facts, ["noise"]).mean() == pytest.approx(0.5, abs=0.05)


def test_the_control_keeps_only_what_differs_between_dishes():
    facts = made_up(n_dishes=8)
    assert what_decides.foretold(facts, ["noise"], shuffled=0).mean() == pytest.approx(0.5, abs=0.05)
    shuffled = [what_decides.foretold(facts, ["signal"], shuffled=seed).mean() for seed in range(20)]
    assert np.mean(shuffled) < what_decides.foretold(facts, ["signal"]).mean() - 0.15
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.15)
    # where dishes with more of a column have more facts that cross, their levels alone foretell, and it shows
    level = facts.assign(signal=facts["signal"] + facts["dish"])
    assert np.mean([what_decides.foretold(level, ["signal"], shuffled=seed).mean() for seed in range(5)]) > 0.75


def test_the_control_of_one_predictor_has_its_area_or_the_reverse():
    facts = made_up(n_dishes=5)
    area = what_decides.foretold(facts, ["signal"])
    for seed in range(4):
        shuffled = what_decides.foretold(facts, ["signal"], shuffled=seed)
        assert np.allclose(np.abs(shuffled - 0.5), np.abs(area - 0.5))


def test_every_dish_weighs_the_same():
    facts = made_up()
    more = pd.concat([facts, *[facts[facts["dish"] == 0]] * 5], ignore_index=True)
    once, often = (what_decides.fitted(some, ["noise"])[-1].intercept_[0] for some in (facts, more))
    assert once == pytest.approx(often, abs=0.02)


def test_one_dish_cannot_be_foretold_from_others():
    with pytest.raises(ValueError, match=r"facts are of 1 dish; allowed: two or more"):
        what_decides.foretold(made_up(n_dishes=1), ["signal"])

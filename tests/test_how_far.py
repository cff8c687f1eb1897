"""In which dishes a claim's test passes: on planted tables, in which each test fails where its claim is false."""

import numpy as np
import pandas as pd
import pytest

import unifylens as ul
from unifylens.designs import random_dishes as dishes
from unifylens.evidence import how_far
from unifylens.evidence.ledger import CLAIMS

TRUE = {  # transfer, without other answers, without the prior, unification, fact_only
    "no parallel facts": (0.10, 0.10, 0.10, 0.1, 0.0),
    "few parallel facts": (0.40, 0.40, 0.40, 0.3, 0.4),
    "as drawn": (0.80, 0.80, 0.80, 0.5, 0.7),
    "many parallel facts": (0.95, 0.95, 0.95, 0.6, 0.9),
    "objects tied to languages": (0.50, 0.60, 0.70, 0.45, 0.6),
    "exposure uneven": (0.45, 0.45, 0.45, 0.3, 0.5),
    "subject words unshared": (0.30, 0.30, 0.30, 0.2, 0.3),
    "early parallel facts": (0.75, 0.75, 0.75, 0.5, 0.68),
    "late parallel facts": (0.20, 0.20, 0.20, 0.2, 0.2),
}
COLUMNS = ("transfer", "transfer_choice", "transfer_corrected", "unification", "fact_only")


def learnt(condition):
    return 1.0


def finals(*tables, recall=learnt):
    """Two seeds, which differ by a hair, of dishes with ten objects a relation."""
    return pd.DataFrame(
        {
            "dish": dish,
            "condition": condition,
            "seed": seed,
            "n_objects": 10,
            **dict.fromkeys(how_far.RECALLS, recall(condition)),
        }
        | {name: value + (0.001 if seed else -0.001) for name, value in zip(COLUMNS, values, strict=True)}
        for dish, table in enumerate(tables)
        for condition, values in table.items()
        for seed in range(2)
    )


def with_values(condition, **columns):
    values = dict(zip(COLUMNS, TRUE[condition], strict=True)) | columns
    return TRUE | {condition: tuple(values.values())}


FALSE = {
    "C1": with_values("few parallel facts", transfer=0.8),
    "B1": with_values("late parallel facts", transfer=0.74),
    "C8": with_values("many parallel facts", unification=0.1),
    "C3": with_values("many parallel facts", fact_only=0.2),
    "C10": {name: (t, c, p, u, -f) for name, (t, c, p, u, f) in TRUE.items()},
    "C4": with_values("exposure uneven", transfer=0.81),
    "C4-object": with_values("objects tied to languages", transfer=0.79),
    "C5": with_values("subject words unshared", transfer=0.8),
}


def passes(table):
    found = how_far.effects(finals(table))
    return {claim_id: outcome == "passes" for claim_id, outcome in zip(found["claim"], found["outcome"], strict=True)}


def test_every_claim_passes_in_a_dish_where_it_is_true_and_fails_where_it_is_not():
    assert passes(TRUE) == dict.fromkeys(how_far.TESTS, True)
    assert FALSE.keys() == how_far.TESTS.keys()
    for claim_id, table in FALSE.items():
        assert not passes(table)[claim_id], claim_id


def test_the_ledger_says_what_each_test_of_a_dish_asks():
    assert {i for i, claim in CLAIMS.items() if claim.dish} == set(how_far.TESTS)
    for claim_id in how_far.TESTS:
        assert CLAIMS[claim_id].dish.keys() == {"effect_name", "threshold", "direction"}
    with pytest.raises(ValueError, match="B2 has no test of a single dish"):
        CLAIMS["B2"].passes_in_dish(1.0)


def test_where_nothing_transfers_nothing_is_shown():
    nowhere = {name: (0.1, 0.1, 0.1, u, f) for name, (_, _, _, u, f) in TRUE.items()}
    found = how_far.effects(finals(nowhere)).set_index("claim")
    assert np.isnan(found.loc["C3", "effect"]) and found.loc["C3", "outcome"] == "untestable"
    assert found.loc["C1", "outcome"] == "untestable", "where many parallel facts do not help either, few show nothing"


def test_what_was_not_learnt_or_forgotten_is_not_judged():
    forgotten = finals(TRUE, recall=lambda condition: 0.5 if condition == "early parallel facts" else 1.0)
    found = how_far.effects(forgotten).set_index("claim")["outcome"]
    assert set(found.index[found == "untestable"]) == {"B1"} and (found.drop("B1") == "passes").all()


def test_what_finals_lack_is_named():
    with pytest.raises(ValueError, match=r"finals lacks the columns \['n_objects'\]"):
        how_far.effects(finals(TRUE).drop(columns="n_objects"))


def test_the_parts_of_what_a_force_costs_add_up():
    forces = {"objects": "objects tied to languages", "exposure": "exposure uneven"}
    found = how_far.two_ways(finals(TRUE), forces).set_index("force").drop(columns="dish")
    assert found.loc["objects"].to_dict() == pytest.approx(
        {"lost": 0.3, "in_representation": 0.1, "in_prior": 0.1, "in_other_answers": 0.1}
    )
    assert found.loc["exposure", ["in_prior", "in_other_answers"]].abs().max() < 1e-12
    parts = found[["in_representation", "in_prior", "in_other_answers"]].sum(axis=1)
    np.testing.assert_allclose(parts, found["lost"], atol=1e-12)
    unlearnt = finals(TRUE, recall=lambda condition: 0.5 if condition == "exposure uneven" else 1.0)
    assert set(how_far.two_ways(unlearnt, forces)["force"]) == {"objects"}


def test_the_setting_that_an_effect_follows_is_found_and_chance_is_not():
    draw, n = np.random.default_rng(0), 24
    settings = pd.DataFrame({"depth": draw.permutation(n), "norm": draw.choice(["LN", "RMS"], n)})
    planted = pd.DataFrame({"claim": "C1", "dish": range(n), "effect": settings["depth"] + draw.normal(0, 3, n)})
    found = how_far.settings_that_matter(planted, settings).set_index("setting")
    assert (
        found.loc["depth", "correlation"] > 0.7 and found.loc["depth", "p"] < 0.01 < 0.05 < found.loc["norm_RMS", "p"]
    )
    false = []
    for seed in range(60):
        noise = planted.assign(effect=np.random.default_rng(seed).normal(size=n))
        false.append(how_far.settings_that_matter(noise, settings, n_permutations=99)["p"].min() <= 0.05)
    assert np.mean(false) <= 0.12


def test_one_cut_tells_dishes_apart_only_where_scores_mean_the_same():
    def scored(offsets):
        rows = [(d, score + o, t) for d, o in enumerate(offsets) for score, t in ((0.1, 0.0), (0.3, 0.3), (0.5, 0.9))]
        return pd.DataFrame(rows, columns=["dish", "fact_only", "corrected_above_chance"])

    same, apart = how_far.cuts(scored([0, 0, 0])), how_far.cuts(scored([0, 1, 2]))
    assert same["cut"].tolist() == pytest.approx([0.3] * 3) and (same["accuracy"] == 1).all()
    assert (apart["accuracy"] == 0.5).all(), "where each dish has a scale of its own, no cut travels"
    nowhere = scored([0, 0]).assign(corrected_above_chance=0.0)
    assert how_far.cuts(nowhere)["accuracy"].isna().all()


# --- the draw ------------------------------------------------------------------------------------------------


def test_dishes_are_drawn_once_and_every_one_can_be_trained(monkeypatch):
    monkeypatch.setenv("UNIFYLENS_PROFILE", "full")
    full = ul.designs.across_dishes()
    assert len({labels["dish"] for labels, _ in full}) == 24
    assert len(full) == 24 * len(dishes.CONDITIONS) * dishes.N_SEEDS["full"]
    for dish, settings in enumerate(dishes.drawn()):
        for labels, experiment in full:
            if labels["dish"] == dish:
                assert experiment.model.n_layers == settings["model.n_layers"]
                facts = experiment.world.n_subjects * experiment.world.n_relations
                assert 390 <= facts <= 1210
    monkeypatch.setenv("UNIFYLENS_PROFILE", "quick")
    quick = ul.designs.across_dishes()
    assert quick == [(labels, e) for labels, e in full if labels["dish"] < 12 and labels["seed"] == 0]


def test_settings_of_the_draw_are_nearly_independent():
    table = pd.get_dummies(pd.DataFrame(dishes.drawn()).drop(columns=list(dishes.FIXED)).drop(columns="model.d_mlp"))
    correlation = table.astype(float).corr().abs().to_numpy(copy=True)
    names = [name.split("_", 1)[0] if "_" in name else name for name in table]
    same = np.array([[a == b for a in names] for b in names])
    correlation[same] = 0
    assert np.nanmax(correlation) < 0.6


def test_conditions_of_a_seed_differ_in_nothing_but_what_they_say(monkeypatch):
    monkeypatch.setenv("UNIFYLENS_PROFILE", "quick")
    base = ul.designs.across_dishes()[0][1]
    for name, condition in dishes.CONDITIONS.items():
        changed = dishes.in_condition(base.replace(**{"corpus.parallel": 0.3}), condition)
        assert changed.train == base.train and changed.model == base.model and changed.world == base.world, name

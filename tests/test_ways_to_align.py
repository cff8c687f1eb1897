"""Ways to align, judged: planted contests in which each sentence is true, and others in which it is false."""

import itertools

import numpy as np
import pandas as pd
import pytest

from unifylens import measures
from unifylens.evidence import ways_to_align as ways

BASES, METHODS, SEEDS = ("p", "q", "r", "s"), tuple("abcdefgh"), (0, 1, 2)


def finals(gain, score=None, longer=()):
    """Runs whose methods bring `gain[method]` of transfer, and of score, over a base at 0.1 (0.3 with more steps)."""
    rows = []
    for number, (base, seed) in enumerate(itertools.product(BASES, SEEDS)):
        labels = {"base": base, "seed": seed, "recall": 1.0, "transfer_wrong_language": 0.0}
        for reference, value in (("none", 0.1), ("more steps", 0.3)):
            levels = {"transfer": value, "transfer_corrected": value, "fact_only": value}
            rows.append(labels | {"method": reference, "kind": "base", "against": ""} | levels)
        for method in METHODS:
            against, start = ("more steps", 0.3) if method in longer else ("none", 0.1)
            up = gain[method](number) if callable(gain[method]) else gain[method]
            alike = up if score is None else score[method]
            levels = {"transfer": start + up, "transfer_corrected": start + up / 2, "fact_only": start + alike}
            rows.append(labels | {"method": method, "kind": "data", "against": against} | levels)
    return pd.DataFrame(rows)


STEADY = {method: 0.05 * i for i, method in enumerate(METHODS)}


def test_gains_are_over_what_trained_as_long():
    found = ways.gains(finals(STEADY, longer=("c",)))
    assert len(found) == len(BASES) * len(SEEDS) * len(METHODS)
    for method, rows in found.groupby("method"):
        assert rows["transfer"].to_numpy() == pytest.approx(STEADY[method])
        assert rows["corrected"].to_numpy() == pytest.approx(STEADY[method] / 2)
        assert rows["score"].to_numpy() == pytest.approx(STEADY[method])
    whole = finals(STEADY, longer=("c",))
    with pytest.raises(ValueError, match="lacks 'more steps' of base 'p' and seed 0"):
        ways.gains(whole[whole["method"] != "more steps"])


def test_an_order_that_is_the_same_everywhere_is_beyond_chance_and_one_that_is_not_is_not():
    steady = ways.gains(finals(STEADY))
    assert ways.order(steady) == pytest.approx(np.ones(len(SEEDS)))
    chance = ways.order_by_chance(steady, 200)
    assert chance.mean() == pytest.approx(1 / len(BASES), abs=0.03) and np.quantile(chance, 0.975) < 0.5
    draw = np.random.default_rng(1)
    noise = ways.gains(finals({method: lambda number: draw.normal() for method in METHODS}))
    chance = ways.order_by_chance(noise, 200)
    assert np.quantile(chance, 0.01) < ways.order(noise).mean() < np.quantile(chance, 0.99)


def test_concordance_by_hand():
    assert measures.concordance([[1, 2, 3], [1, 2, 3]]) == 1
    assert measures.concordance([[1, 2, 3], [3, 2, 1]]) == 0
    # Kendall and Gibbons: sums of ranks 4, 5, 9 of three raters, 6 in the mean
    assert measures.concordance([[1, 2, 3], [2, 1, 3], [1, 2, 3]]) == pytest.approx((4 + 1 + 9) / 18)
    assert np.isnan(measures.concordance([[1, 1, 1], [2, 2, 2]]))
    for wrong in ([[1, 2, 3]], [[1, 2], [1, 2]], [1, 2, 3]):
        with pytest.raises(ValueError, match="two raters and three items"):
            measures.concordance(wrong)
    with pytest.raises(ValueError, match="finite"):
        measures.concordance([[1, 2, np.nan], [1, 2, 3]])


def test_means_of_seeds():
    found = ways.gains(finals(STEADY))
    assert ways.means_of_seeds(found, "d", "score") == pytest.approx([0.15] * 3)
    found.loc[found["base"] == "q", "score"] = [0.3] * 24
    assert ways.means_of_seeds(found, "d", "score", "q") == pytest.approx([0.3] * 3)
    assert ways.means_of_seeds(found, "d", "score") == pytest.approx([(0.3 + 3 * 0.15) / 4] * 3)
    for method, base in (("z", None), ("d", "t")):
        with pytest.raises(KeyError, match=f"'{method}' of base {base!r} is not in the table; it has a, b"):
            ways.means_of_seeds(found, method, "score", base)


def test_early_less_late_is_by_seed_over_bases():
    rows = itertools.product(("p", "q"), SEEDS, ("first half", "second half", "throughout"), ("a", "b"))
    table = pd.DataFrame(rows, columns=["base", "seed", "when", "method"])
    table["transfer"] = 0.2 + 0.1 * (table["when"] == "first half") * (table["method"] == "a") * (1 + table["seed"])
    assert ways.early_less_late(table, "a") == pytest.approx([0.1, 0.2, 0.3])
    assert ways.early_less_late(table, "b") == pytest.approx([0, 0, 0])


def test_worth_is_read_between_levels():
    facts, brought = [0, 10, 20, 40], [0.0, 0.2, 0.1, 0.5]
    assert ways.worth([-0.1, 0.0, 0.1, 0.2, 0.35, 0.5, 0.6], facts, brought) == pytest.approx(
        [0, 0, 5, 10, 25, 40, np.inf]
    )
    assert ways.worth([0.3 - 0.1], [0, 10], [0.0, 0.2]) == [10], "as much as all bring, but for rounding"
    assert ways.worth([0.0, 0.01], [0, 10], [0.0, 0.0]) == pytest.approx([0, np.inf]), "facts that bring nothing"
    for wrong in (([1, 10], [0.0, 0.2]), ([0, 10], [0.1, 0.2]), ([0, 10, 10], [0, 0.1, 0.2])):
        with pytest.raises(ValueError, match="rising from 0"):
            ways.worth([0.1], *wrong)
    with pytest.raises(ValueError, match=r"\[level\]"):
        ways.worth([0.1], [0], [0.0])


def answers(gain):
    """As `transfer_at_inference` gives: what methods bring over 0.1, and a control that must not be looked at."""
    rows = []
    for base, seed in itertools.product(BASES, SEEDS):
        for method, up in {"none": 0.0, "translate-test": 0.8, **gain}.items():
            if method == "vote" and base == "p":
                continue  # as where there are two languages
            rows.append({"base": base, "seed": seed, "method": method, "control": False, "transfer": 0.1 + up})
        rows.append({"base": base, "seed": seed, "method": "shift", "control": True, "transfer": 0.95})
    return pd.DataFrame(rows)


def test_the_most_at_inference_is_neither_what_asks_at_home_nor_a_control():
    gained = ways.gains_at_inference(answers({"shift": 0.02, "vote": 0.04, "majority vote": 0.5}))
    assert ways.most_at_inference(gained, ("p", "q")) == pytest.approx([0.04] * 3)
    assert ways.most_at_inference(gained, ("p",)) == pytest.approx([0.02] * 3)
    assert gained.xs("translate-test", level="method").to_numpy() == pytest.approx([0.8] * 12)
    table = answers({"shift": 0.02})
    with pytest.raises(ValueError, match="'none'"):
        ways.gains_at_inference(table[table["method"] != "none"])
    with pytest.raises(ValueError, match="'none'"):
        ways.gains_at_inference(table[(table["method"] != "none") | (table["base"] != "q")])

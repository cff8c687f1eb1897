"""Claims cannot pass without evidence and a control, keep every attempt, and the README shows what was recorded."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unifylens import environment as paths
from unifylens.evidence import claims
from unifylens.evidence.claims import record
from unifylens.evidence.ledger import CLAIMS, Claim, attempts_before
from unifylens.evidence.records import (
    README_END,
    README_START,
    claims_table,
    comparison,
    load_records,
    save_how_far,
    save_records,
)
from unifylens.measures import chosen_by, rank_correlation, shuffled, statistic_interval, unification

ROOT = Path(__file__).parents[1]
SEEDS = range(5)
HIGH = [0.90, 0.92, 0.94, 0.91, 0.93]
LOW = [0.01, 0.02, 0.00, 0.03, 0.02]
CHANCE = np.random.default_rng(0).normal(0, 0.1, 400)


@pytest.fixture(autouse=True)
def figures(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path / "my figures"))
    monkeypatch.delenv("UNIFYLENS_PROFILE", raising=False)
    at_least = Claim("T1", "a | statement", "99_test", "gap", 0.8, "at least", "untrained", 0.1, "at most")
    monkeypatch.setitem(CLAIMS, "T1", at_least)
    monkeypatch.setitem(CLAIMS, "T2", replace(at_least, id="T2", threshold=0.1, direction="at most"))
    monkeypatch.setitem(CLAIMS, "T3", replace(at_least, id="T3", threshold=0.2, control="permuted"))
    return tmp_path / "my figures"


@pytest.fixture
def recorded(monkeypatch):
    """Sets what the project has recorded of T1."""
    return lambda **kept: monkeypatch.setitem(CLAIMS, "T1", replace(CLAIMS["T1"], **kept))


def test_a_claim_that_holds(figures):
    found = record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    assert found.holds and found.verdict == "held" and found.check() is found
    assert found.effect == pytest.approx(0.92)
    assert 0.88 <= found.ci_low < 0.9 < 0.94 < found.ci_high <= 0.96
    assert "\n" not in repr(found) and "T1 held: gap 0.92" in repr(found)
    assert set(json.loads((figures / "claims.json").read_text())[0]) == {
        *("id", "statement", "notebook", "profile", "effect", "ci_low", "ci_high", "seeds"),
        *("control", "threshold", "verdict", "range", "how_far", "values", "attempts"),
    }
    assert load_records() == [found]
    assert (found.values, found.control["values"]) == (HIGH, LOW), "so that another interval can be made of them"


def test_the_bound_decides_and_not_the_mean():
    found = record("T1", effect=[0.5, 0.9, 0.95, 0.9, 0.95], control=LOW, seeds=SEEDS)
    assert found.effect > 0.8 > found.ci_low and not found.holds
    with pytest.raises(AssertionError, match=r"T1 NOT held: gap 0\.84 .* needed at least 0\.8 \(lower bound\)"):
        found.check()


def test_both_bounds_of_a_control_count(monkeypatch):
    """A control whose mean passes and whose seeds do not is one that fails."""
    assert not record("T1", effect=HIGH, control=HIGH, seeds=SEEDS).holds
    wide = [0.0, 0.0, 0.0, 0.0, 0.15]
    assert np.mean(wide) < 0.1 and not record("T1", effect=HIGH, control=wide, seeds=SEEDS).holds
    recall = replace(CLAIMS["T1"], control_threshold=0.95, control_direction="at least")
    monkeypatch.setitem(CLAIMS, "T1", recall)
    assert record("T1", effect=HIGH, control=[1.0, 0.99, 1.0, 0.99, 1.0], seeds=SEEDS).holds
    assert not record("T1", effect=HIGH, control=[1.0, 1.0, 1.0, 1.0, 0.85], seeds=SEEDS).holds


@pytest.mark.parametrize("direction", ["at least", "at most"])
def test_an_effect_must_lie_beyond_what_permutations_give(direction, monkeypatch):
    """Their mean is zero whatever the effect is: an effect that chance gives as well has to fail."""
    sign = 1 if direction == "at least" else -1
    monkeypatch.setitem(CLAIMS, "T3", replace(CLAIMS["T3"], threshold=sign * 0.2, direction=direction))
    effect = (sign * 0.3, *sorted((sign * 0.25, sign * 0.35)))
    held = record("T3", interval=effect, permuted=CHANCE, seeds=SEEDS)
    assert held.holds and held.control["holds"] and held.control["draws"] == 400
    assert held.control["value"] == pytest.approx(sign * 0.2, abs=0.03)
    by_chance = record("T3", interval=effect, permuted=3 * CHANCE, seeds=SEEDS)
    assert abs(np.mean(3 * CHANCE)) < 0.02 and not by_chance.holds and not by_chance.control["holds"]
    with pytest.raises(AssertionError, match="T3 NOT held"):
        by_chance.check()


def test_shuffled_scores_of_models_that_do_not_go_together():
    """As in the notebooks: permutations of noise give what the noise gives."""
    draw = np.random.default_rng(1)
    score, transfer = draw.normal(size=(2, 40))
    interval = statistic_interval(rank_correlation, score, transfer)
    shuffled = [rank_correlation(score, draw.permutation(transfer)) for _ in range(200)]
    assert not record("T3", interval=interval, permuted=shuffled, seeds=SEEDS).control["holds"]
    interval = statistic_interval(rank_correlation, score, score + transfer / 2)
    assert record("T3", interval=interval, permuted=shuffled, seeds=SEEDS).holds


def test_recall_minus_transfer_means_nothing_where_the_questions_cannot_be_answered():
    """C1's control: with many parallel facts they are; a model that never transfers fails it."""
    assert record("C1", effect=HIGH, control=LOW, seeds=SEEDS).holds
    never = record("C1", effect=HIGH, control=HIGH, seeds=SEEDS)
    assert not never.control["holds"] and not never.holds


def test_relations_that_become_alike_are_no_facts_that_do():
    """C8's control: the share of the score's rise that pairs of other facts of a relation show."""
    draw, relation = np.random.default_rng(0), torch.arange(64) % 8
    of_fact, own_a, own_b = torch.from_numpy(draw.normal(size=(3, 64, 96)))
    of_relation = torch.from_numpy(draw.normal(size=(2, 8, 96)))

    def rise_and_share(relations, facts):
        def scores(relations, facts):
            first, second = of_relation[:, relation]
            a = first + own_a + facts * of_fact
            b = relations * first + (1 - relations) * second + own_b + facts * of_fact
            return unification(a, b), shuffled(a, b, relation)

        (before, other_before), (after, other_after) = scores(0.0, 0.0), scores(relations, facts)
        return after - before, (other_after - other_before) / (after - before)

    for alike, holds in (((1.0, 0.0), False), ((0.0, 2.0), True)):
        rise, share = rise_and_share(*alike)
        found = record("C8", effect=rise + np.array(LOW), control=share + np.array(LOW), seeds=SEEDS)
        assert rise > 0.25 and found.control["holds"] is holds and found.holds is holds


def test_a_score_chooses_well_only_where_another_chooses_badly():
    """C10-checkpoints' control: where transfer is the same at all late steps any score chooses well, and it fails."""
    run, rising = np.repeat(np.arange(4), 5), np.tile([0.0, 0.2, 0.6, 0.8, 0.9], 4)
    plain, fact_only = np.tile([0.0, 0.3, 0.6, 0.5, 0.4], 4), np.tile([0.1, 0.3, 0.6, 0.8, 0.9], 4)

    def judged(score, other, transfer):
        cost = [(transfer[-1] - chosen_by(by, transfer, run)).to_numpy() for by in (score, other)]
        return record("C10-checkpoints", effect=cost[0], control=cost[1], seeds=range(4)).holds

    assert judged(fact_only, plain, rising)
    assert not judged(plain, plain, rising)
    assert not judged(fact_only, plain, np.tile([0.0, 0.2, 0.9, 0.9, 0.9], 4))


def test_at_most_looks_at_the_upper_bound():
    assert record("T2", effect=LOW, control=LOW, seeds=SEEDS).holds
    assert not record("T2", effect=[0.0, 0.0, 0.0, 0.3], control=LOW, seeds=range(4)).holds


def test_equal_values_have_an_interval_of_no_width_but_for_their_step():
    found = record("T1", effect=[1.0, 1.0], control=[0.0, 0.0], seeds=[0, 1])
    assert (found.effect, found.ci_low, found.ci_high, found.holds) == (1.0, 1.0, 1.0, True)
    assert record("T1", effect=[1.0, 1.0], control=[0.0, 0.0], seeds=[0, 1], step=0.5).ci_low < 0.8


def test_intervals_are_cut_to_what_is_possible(monkeypatch):
    bounded = replace(CLAIMS["T1"], within=(-1, 1), control_within=(0, 1))
    monkeypatch.setitem(CLAIMS, "T1", bounded)
    found = record("T1", effect=[1.0, 1.0, 0.9], control=[0.0, 0.0, 0.01], seeds=range(3))
    assert found.ci_high == 1.0 and found.control["ci_low"] == 0.0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"control": None}, "control of T1: got None; allowed: two or more finite"),
        ({"control": []}, "control of T1"),
        ({"control": [0.1]}, "control of T1"),
        ({"control": [0.1, float("nan")]}, "control of T1"),
        ({"permuted": CHANCE}, "control of T1: the ledger says 'seeds'; allowed: control=... alone"),
        ({"effect": [0.9, 0.9, 0.9, 0.9, float("inf")]}, "effect of T1"),
        ({"effect": np.ones((5, 2))}, "effect of T1"),
        ({"effect": HIGH[:4]}, "effect of T1: got 4 values; allowed: one for each of 5 seeds"),
        ({"effect": None}, "effect and interval of T1: give one"),
        ({"interval": (0.9, 0.8, 1.0)}, "effect and interval of T1: give one"),
        ({"effect": None, "interval": (0.9, 1.0, 0.8)}, "interval of T1"),
        ({"effect": None, "interval": (0.9, np.nan, np.nan)}, "interval of T1"),
        ({"effect": [0.9], "seeds": [0]}, r"seeds of T1: got \[0\]; allowed: two or more different"),
        ({"seeds": [0, 0, 1, 2, 3]}, "seeds of T1"),
    ],
)
def test_what_cannot_be_recorded(figures, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        record("T1", **({"effect": HIGH, "control": LOW, "seeds": SEEDS} | change))
    assert not figures.exists()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "control of T3: got None"),
        ({"control": CHANCE}, "control of T3: the ledger says 'permuted'; allowed: permuted=... alone"),
        ({"permuted": CHANCE[:100]}, "permuted of T3: got 100 draws; allowed: 200 or more"),
    ],
)
def test_a_control_cannot_be_left_out_or_be_of_another_kind(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        record("T3", effect=HIGH, seeds=SEEDS, **given)


def test_an_unknown_claim_names_its_neighbour():
    with pytest.raises(ValueError, match=r"got 'C12'; allowed: C1, .* did you mean 'C\d"):
        record("C12", effect=HIGH, control=LOW, seeds=SEEDS)


def test_records_are_replaced_and_kept_in_the_registry_order(figures):
    for claim in ("T2", "C8", "T1", "C1", "C8"):
        record(claim, effect=HIGH, control=LOW, seeds=SEEDS)
    assert [r.id for r in load_records()] == ["C1", "C8", "T1", "T2"]
    assert [p.name for p in figures.iterdir()] == ["claims.json"]


def test_a_run_with_fewer_seeds_than_are_recorded_says_so(recorded):
    recorded(seeds=10, changed="ten seeds")
    effect = [0.7, 0.95, 0.99]
    found = record("T1", effect=effect, control=LOW[:3], seeds=range(3))
    assert not found.holds and found.agrees and found.few
    assert repr(found).endswith("(recorded with 10 seeds, which make a shorter interval: held)")
    assert [a["changed"] for a in found.attempts] == ["the same test with fewer seeds than are recorded"]
    recorded(seeds=3, changed="three seeds")
    again = record("T1", effect=effect, control=LOW[:3], seeds=range(3))
    assert not again.few and not again.agrees and "recorded with" not in repr(again)
    assert again.attempts[-1]["changed"] == "three seeds"


def test_what_was_found_with_as_many_seeds_as_were_recorded_then_is_no_new_attempt(recorded):
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    recorded(seeds=10)
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    assert [a["changed"] for a in load_records()[0].attempts] == ["first run"]
    recorded(seeds=10, changed="another schedule")
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    told = [a["changed"] for a in load_records()[0].attempts]
    assert told == ["first run", "the same test with fewer seeds than are recorded"]


def test_every_attempt_is_kept_and_the_same_again_is_none(recorded):
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    (found,) = load_records()
    assert [a["changed"] for a in found.attempts] == ["first run"]
    recorded(changed="another schedule")
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    record("T1", effect=LOW, control=LOW, seeds=SEEDS)
    record("T1", effect=HIGH[:4], control=LOW, seeds=SEEDS[:4])
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    (found,) = load_records()
    told = [(a["changed"], a["verdict"], a["seeds"], a["profile"]) for a in found.attempts]
    assert told == [
        ("first run", "held", 5, "quick"),
        ("another schedule", "held", 5, "quick"),
        ("another schedule", "not held", 5, "quick"),
        ("another schedule", "held", 4, "quick"),
    ]
    assert found.verdict == "held" and found.effect == found.attempts[0]["effect"] == pytest.approx(0.92)
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", a["date"]) and a["control"] == 0.016 for a in found.attempts[:2])


def test_what_missed_before_attempts_were_kept_stands_in_the_record(figures):
    record("C9", effect=HIGH, control=LOW, seeds=SEEDS)
    assert [a["verdict"] for a in load_records()[0].attempts] == ["held", "held"]
    misses = {i for i in CLAIMS for a in attempts_before(i) if a["verdict"] == "not held"}
    assert misses == {"C10", "B3", "B4", "C11"}
    assert (
        attempts_before("C10")[0] | {"ci_low": 0.59, "effect": 0.77, "date": "2026-11-21"} == attempts_before("C10")[0]
    )


@pytest.mark.parametrize(
    ("kept", "effect", "control", "agrees"),
    [
        ({}, HIGH, LOW, True),
        ({}, LOW, LOW, False),
        ({"verdict": "not held"}, LOW, LOW, True),  # an honest miss fails nothing
        ({"verdict": "not held"}, HIGH, LOW, False),
        ({"verdict": "not held"}, LOW, HIGH, False),  # a control that passed in what is recorded
        ({"verdict": "not held", "control_holds": False}, LOW, HIGH, True),
        ({"verdict": "not held", "control_holds": False}, HIGH, HIGH, True),
        ({"verdict": "held in part", "range": "with cats."}, HIGH, LOW, True),
        ({"verdict": "held in part", "range": "with cats."}, LOW, LOW, False),
        ({"seeds": 10}, [0.7, 0.9, 0.9, 0.9, 0.9], LOW, True),  # fewer seeds: the mean has to pass
        ({"seeds": 5}, [0.7, 0.9, 0.9, 0.9, 0.9], LOW, False),
        ({"seeds": 10}, [0.7, 0.7, 0.9, 0.8, 0.8], LOW, False),
        ({"seeds": 10}, HIGH, [0.0, 0.0, 0.0, 0.0, 0.15], True),
        ({"seeds": 10}, HIGH, [0.0, 0.0, 0.0, 0.4, 0.15], False),
    ],
)
def test_a_run_agrees_with_the_record_or_fails(kept, effect, control, agrees, recorded):
    recorded(**kept)
    found = record("T1", effect=effect, control=control, seeds=SEEDS)
    assert found.agrees is agrees
    line = comparison(CLAIMS["T1"], None, found, True)
    assert line.endswith("(5 seeds, quick): agrees" if agrees else "(5 seeds, quick): DISAGREES")
    if agrees:
        assert found.check() is found
    else:
        with pytest.raises(AssertionError, match=f"Recorded: {CLAIMS['T1'].verdict}"):
            found.check()


def test_a_range_is_told(recorded):
    recorded(verdict="held in part", range="only with cats.")
    found = record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    assert (found.verdict, found.range) == ("held in part", "only with cats.")
    assert "| held in part: only with cats. |" in claims_table([found])
    missed = record("T1", effect=LOW, control=LOW, seeds=SEEDS)
    assert (missed.verdict, missed.range) == ("not held", "")


def test_how_far_a_claim_holds_stands_beside_it(figures):
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    assert "|  |" in claims_table(load_records())
    claims.how_far("T1", [True] * 18 + [False] * 6)
    assert "| 0.75 [0.53, 0.90] of 24 |" in claims_table(load_records())
    claims.how_far("T1", [True] * 18 + [False] * 6, untestable=5)
    (found,) = load_records()
    share = {"share": 0.75, "ci_low": 0.5329, "ci_high": 0.9023, "dishes": 24, "untestable": 5}
    assert found.how_far == pytest.approx(share, abs=1e-4)
    assert "| 0.75 [0.53, 0.90] of 24; 5 untestable |" in claims_table([found])
    save_records([found], figures)
    (figures / "how_far.json").unlink()
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    assert load_records()[0].how_far == found.how_far
    with pytest.raises(ValueError, match="passed is 0 of 0"):
        claims.how_far("T1", [])
    with pytest.raises(ValueError, match="claim_id: got 'T9'"):
        save_how_far("T9", 1, 2, 0, figures)
    with pytest.raises(ValueError, match="untestable is 7 of 24, 18 of which passed; allowed: those that did not"):
        claims.how_far("T1", [True] * 18 + [False] * 6, untestable=7)


def test_records_of_before_are_read(figures):
    old = {"id": "B3", "statement": "It moves.", "notebook": "11_phase_diagram", "profile": "full", "effect": 1.33}
    old |= {"ci_low": 1.25, "ci_high": 1.41, "seeds": 10, "threshold": "at least 1 (lower bound)", "holds": True}
    old["control"] = {"name": "lowest recall", "value": 0.99, "ci_low": 0.98, "ci_high": 1.0}
    old["control"]["threshold"] = "at least 0.95 (mean)"
    figures.mkdir()
    (figures / "claims.json").write_text(json.dumps([old]))
    (found,) = load_records()
    assert (found.verdict, found.seeds, found.control["holds"]) == ("held", 10, True)
    assert [a["verdict"] for a in found.attempts] == ["not held", "held", "held"]
    assert found.attempts[-1]["profile"] == "full"
    save_records([found], figures)
    assert load_records() == [found]
    old["holds"], old["control"]["value"] = False, 0.94
    (figures / "claims.json").write_text(json.dumps([old]))
    assert not load_records()[0].holds and not load_records()[0].control["holds"]


def test_the_table_is_markdown_and_shows_what_does_not_hold():
    held = record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    missed = record("T2", effect=HIGH, control=LOW, seeds=SEEDS)
    lines = claims_table([held, missed]).splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 9 for line in lines)
    assert lines[2].startswith(r"| T1 | a \| statement | gap: 0.92 [")
    assert lines[2].endswith("| 5 (quick) |  | held | 1 | [99](notebooks/99_test.ipynb) |")
    assert "| **not held** |" in lines[3]


def test_the_readme_block_is_renewed_and_nothing_else():
    found = record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    text = f"before\n{README_START}\nstale rows\n{README_END}\nafter\n"
    once = claims.readme_with(text, [found])
    assert once == claims.readme_with(once, [found])
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "stale" not in once and "| T1 0.92 [" in once
    with pytest.raises(ValueError, match=r"README\.md: needs the lines"):
        claims.readme_with("no marks", [found])


def test_the_registry_is_sound():
    for key, claim in CLAIMS.items():
        assert key == claim.id
        assert claim.direction in ("at least", "at most") and claim.verdict in ("held", "held in part", "not held")
        assert (claim.control, claim.control_threshold is None) in {("seeds", False), ("permuted", True)} or key[
            0
        ] == "T"
        assert bool(claim.range) == (claim.verdict == "held in part") and claim.seeds >= 2
        assert claim.effect_name and claim.control_name and claim.statement.endswith(".") == (key[0] != "T")


def test_the_committed_records_were_judged_by_the_registry(monkeypatch):
    monkeypatch.chdir(ROOT)
    records = claims.shipped_records()
    assert [r.id for r in records] == [i for i in CLAIMS if i[0] != "T"]
    for r in records:
        claim, control = CLAIMS[r.id], r.control
        assert (r.threshold, control["needs"], control["kind"]) == (claim.needs, claim.control_needs, claim.control)
        assert (r.statement, r.notebook, control["name"]) == (claim.statement, claim.notebook, claim.control_name)
        if control["kind"] == "permuted":
            passed, _ = claim.beyond_chance(r.effect, [control["value"]])
        else:
            passed = claim.control_passes(control["ci_low"], control["ci_high"])
        assert control["holds"] == passed
        assert r.holds == (claim.passes(r.ci_low, r.ci_high) and passed)
        assert (r.verdict, r.range, control["holds"]) == (claim.verdict, claim.range, claim.control_holds)
        assert claim.seeds == r.seeds and r.agrees
        before = attempts_before(r.id)
        assert r.attempts[: len(before)] == before and len(r.attempts) > len(before)
        assert {name: r.attempts[-1][name] for name in ("effect", "ci_low", "verdict", "seeds")} == {
            name: asdict(r)[name] for name in ("effect", "ci_low", "verdict", "seeds")
        }
        assert r.attempts[-1]["changed"] == claim.changed
        assert (ROOT / "notebooks" / f"{r.notebook}.ipynb").exists()


def test_the_readme_shows_the_committed_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shipped = claims.shipped_records()
    assert readme == claims.readme_with(readme, shipped), "run: python -m unifylens.evidence.claims"
    assert [r.id for r in shipped] == [i for i in CLAIMS if i[0] != "T"]
    assert {r.id for r in shipped if r.seeds < 10} == {"C11"}, "C11 has four parts of the facts, all others ten seeds"


def test_what_is_shipped_of_a_claim_is_of_its_test_as_it_stands(recorded, monkeypatch, tmp_path):
    monkeypatch.setattr("unifylens.evidence.records.published_dir", lambda size: tmp_path / size)

    def publish(size, effect, seeds):
        monkeypatch.setenv("UNIFYLENS_PROFILE", size)
        monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path / size))
        record("T1", effect=effect, control=LOW, seeds=seeds)

    recorded(seeds=5)
    publish("full", HIGH, SEEDS)
    publish("quick", HIGH[:4], SEEDS[:4])
    (shipped,) = claims.shipped_records()
    assert (shipped.profile, len(shipped.attempts)) == ("full", 2), "more seeds of the same test"
    recorded(seeds=4, changed="another schedule")
    publish("quick", LOW[:4], SEEDS[:4])
    (shipped,) = claims.shipped_records()
    told = [(a["profile"], a["changed"]) for a in shipped.attempts]
    assert shipped.profile == "quick" and shipped.verdict == "not held", "ten seeds of another test decide nothing"
    assert told[-1] == ("quick", "another schedule") and ("full", "first run") in told


def test_folders(monkeypatch, tmp_path):
    (tmp_path / "project" / "notebooks").mkdir(parents=True)
    (tmp_path / "project" / "pyproject.toml").write_text('[project]\nname = "unifylens"\n')
    monkeypatch.delenv("UNIFYLENS_FIGURES")
    monkeypatch.chdir(tmp_path / "project" / "notebooks")
    assert paths.published_dir() == tmp_path / "project/figures"
    assert paths.figures_dir() == tmp_path / "project/build/figures"
    monkeypatch.setenv("UNIFYLENS_REPORTED", "0")
    assert paths.figures_dir() == tmp_path / "project/build/scratch"
    monkeypatch.chdir(tmp_path)
    assert paths.figures_dir() == tmp_path / "build/scratch"
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "runs"))
    assert paths.home() == tmp_path / "runs"
    monkeypatch.delenv("UNIFYLENS_HOME")
    assert paths.home().name == "unifylens"


def test_profile(monkeypatch):
    assert paths.profile() == "quick"
    monkeypatch.setenv("UNIFYLENS_PROFILE", "full")
    assert paths.profile() == "full"
    monkeypatch.setenv("UNIFYLENS_PROFILE", "huge")
    with pytest.raises(ValueError, match="UNIFYLENS_PROFILE is 'huge'; allowed: 'quick' or 'full'"):
        paths.profile()


def test_who_reports(monkeypatch):
    monkeypatch.delenv("UNIFYLENS_REPORTED", raising=False)
    assert paths.reported(), "under pytest"
    monkeypatch.delenv("PYTEST_VERSION")
    assert not paths.reported()
    monkeypatch.setenv("UNIFYLENS_REPORTED", "1")
    assert paths.reported()
    monkeypatch.setenv("UNIFYLENS_REPORTED", "yes")
    with pytest.raises(ValueError, match="UNIFYLENS_REPORTED is 'yes'; allowed: '0' or '1'"):
        paths.reported()


def test_a_scratch_run_is_told_and_goes_on(figures, monkeypatch, capsys):
    monkeypatch.setenv("UNIFYLENS_REPORTED", "0")
    found = record("T1", effect=HIGH, control=HIGH, seeds=SEEDS)
    assert capsys.readouterr().out == (
        f"scratch: T1 is judged by its threshold but not in the record; written to {figures}\n"
    )
    assert found.check() is found
    claims.expect(1 > 2, "one is more than two")
    claims.expect(2 > 1, "two is more than one")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("scratch: not as with the reported settings: T1 NOT held: gap 0.92")
    assert lines[1:] == ["scratch: not as with the reported settings: one is more than two"]


def test_what_is_expected_of_a_reported_run(capsys):
    claims.expect(np.float64(2) > 1, "two is more than one")
    with pytest.raises(AssertionError, match="one is more than two"):
        claims.expect(np.float64(1) > 2, "one is more than two")
    record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    assert capsys.readouterr().out == ""


def test_what_is_shipped_is_not_written_to_by_a_setting(monkeypatch, tmp_path):
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNIFYLENS_FIGURES", "figures")
    assert paths.figures_dir() == tmp_path / "figures", "outside a checkout it is anybody's name"
    (tmp_path / "pyproject.toml").write_text('name = "unifylens"')
    with pytest.raises(ValueError, match="UNIFYLENS_FIGURES is 'figures', which the project ships"):
        paths.figures_dir()

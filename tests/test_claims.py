"""Claims cannot pass without evidence and a control, and the README shows what was recorded."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from unifylens import environment as paths
from unifylens.evidence import claims
from unifylens.evidence.claims import record
from unifylens.evidence.ledger import CLAIMS, Claim
from unifylens.evidence.records import README_END, README_START, claims_table, load_records
from unifylens.measures.bootstrap import bootstrap_statistic, mean_interval

ROOT = Path(__file__).parents[1]
SEEDS = range(5)
HIGH = [0.90, 0.92, 0.94, 0.91, 0.93]
LOW = [0.01, 0.02, 0.00, 0.03, 0.02]


@pytest.fixture(autouse=True)
def figures(tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path / "my figures"))
    monkeypatch.delenv("UNIFYLENS_PROFILE", raising=False)
    at_least = Claim("T1", "a | statement", "99_test", "gap", 0.8, "at least", "untrained", 0.1, "at most")
    monkeypatch.setitem(CLAIMS, "T1", at_least)
    monkeypatch.setitem(CLAIMS, "T2", replace(at_least, id="T2", threshold=0.1, direction="at most"))
    return tmp_path / "my figures"


def test_a_claim_that_holds(figures):
    found = record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    assert found.holds and found.check() is found
    assert found.effect == pytest.approx(0.92)
    assert 0.9 <= found.ci_low < 0.92 < found.ci_high <= 0.94
    assert "\n" not in repr(found) and "T1 holds: gap 0.92" in repr(found)
    assert set(json.loads((figures / "claims.json").read_text())[0]) == {
        *("id", "statement", "notebook", "profile", "effect", "ci_low", "ci_high"),
        *("seeds", "control", "threshold", "holds"),
    }
    assert load_records() == [found]


def test_the_bound_decides_and_not_the_mean():
    found = record("T1", effect=[0.5, 0.9, 0.95, 0.9, 0.95], control=LOW, seeds=SEEDS)
    assert found.effect > 0.8 > found.ci_low and not found.holds
    with pytest.raises(AssertionError, match=r"T1 does NOT hold: gap 0\.84 .* needed at least 0\.8 \(lower bound\)"):
        found.check()


def test_the_control_decides_too():
    assert not record("T1", effect=HIGH, control=HIGH, seeds=SEEDS).holds


def test_at_most_looks_at_the_upper_bound():
    assert record("T2", effect=LOW, control=LOW, seeds=SEEDS).holds
    assert not record("T2", effect=[0.0, 0.0, 0.0, 0.3], control=LOW, seeds=range(4)).holds


def test_equal_values_have_an_interval_of_no_width():
    found = record("T1", effect=[1.0, 1.0], control=[0.0, 0.0], seeds=[0, 1])
    assert (found.effect, found.ci_low, found.ci_high, found.holds) == (1.0, 1.0, 1.0, True)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_every_interval_is_finite_and_within_the_data(values):
    mean, low, high = mean_interval(np.array(values))
    slack = 1e-9
    assert min(values) - slack <= low <= high <= max(values) + slack
    assert min(values) - slack <= mean <= max(values) + slack


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"control": None}, "control of T1: got None; allowed: two or more finite"),
        ({"control": []}, "control of T1"),
        ({"control": [0.1]}, "control of T1"),
        ({"control": [0.1, float("nan")]}, "control of T1"),
        ({"effect": [0.9, 0.9, 0.9, 0.9, float("inf")]}, "effect of T1"),
        ({"effect": np.ones((5, 2))}, "effect of T1"),
        ({"effect": HIGH[:4]}, "effect of T1: got 4 values; allowed: one for each of 5 seeds"),
        ({"effect": None}, "effect and interval of T1: give one"),
        ({"interval": (0.9, 0.8, 1.0)}, "effect and interval of T1: give one"),
        ({"effect": None, "interval": (0.9, 1.0, 0.8)}, "interval of T1"),
        ({"effect": [0.9], "seeds": [0]}, r"seeds of T1: got \[0\]; allowed: two or more different"),
        ({"seeds": [0, 0, 1, 2, 3]}, "seeds of T1"),
    ],
)
def test_what_cannot_be_recorded(figures, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        record("T1", **({"effect": HIGH, "control": LOW, "seeds": SEEDS} | change))
    assert not figures.exists()


def test_a_control_cannot_be_left_out():
    with pytest.raises(TypeError, match="control"):
        record("T1", effect=HIGH, seeds=SEEDS)


def test_an_unknown_claim_names_its_neighbour():
    with pytest.raises(ValueError, match=r"got 'C12'; allowed: C1, .* did you mean 'C\d"):
        record("C12", effect=HIGH, control=LOW, seeds=SEEDS)


def test_records_are_replaced_and_kept_in_the_registry_order(figures):
    for claim in ("T2", "C10", "T1", "C1", "C10"):
        record(claim, effect=HIGH, control=LOW, seeds=SEEDS)
    assert [r.id for r in load_records()] == ["C1", "C10", "T1", "T2"]
    assert [p.name for p in figures.iterdir()] == ["claims.json"]


def test_a_statistic_over_models():
    x = np.arange(12.0)
    effect, low, high = bootstrap_statistic(lambda a, b: spearmanr(a, b).statistic, x, x**2)
    assert effect == pytest.approx(1) and low == pytest.approx(1) and high == pytest.approx(1)
    noise = np.random.default_rng(0).normal(size=12)
    assert bootstrap_statistic(np.mean, noise) == bootstrap_statistic(np.mean, noise)
    assert record("T1", interval=(effect, low, high), control=LOW, seeds=SEEDS).holds


def test_models_that_go_together_are_drawn_together():
    values = np.repeat(np.random.default_rng(1).normal(size=6), 20)
    _, low, high = bootstrap_statistic(np.mean, values)
    _, group_low, group_high = bootstrap_statistic(np.mean, values, groups=np.repeat(range(6), 20))
    assert group_high - group_low > 3 * (high - low)


@pytest.mark.parametrize(
    ("arrays", "groups", "complaint"),
    [
        ([[1, 2, 3], [1, 2]], None, r"arrays: got lengths \[3, 2\]"),
        ([[1]], None, "arrays"),
        ([], None, "arrays"),
        ([[1, 2, 3]], [0, 0], "groups: got 2 labels"),
        ([[1, 2, 3]], [0, 0, 0], "groups: got 1 group"),
    ],
)
def test_what_cannot_be_bootstrapped(arrays, groups, complaint):
    with pytest.raises(ValueError, match=complaint):
        bootstrap_statistic(lambda *a: 0.0, *arrays, groups=groups)


def test_an_interval_that_few_groups_cannot_give_is_not_a_number():
    x, groups = np.arange(6.0), [0, 0, 1, 1, 2, 2]  # every ninth resample is of one group only
    value, low, high = bootstrap_statistic(lambda v: v.mean() if v.std() > 0.6 else np.nan, x, groups=groups)
    assert value == 2.5 and np.isnan([low, high]).all()
    with pytest.raises(ValueError, match="allowed: finite"):
        record("T1", interval=(value, low, high), control=LOW, seeds=SEEDS)


def test_an_undefined_statistic_is_refused():
    with pytest.raises(ValueError, match="got nan on the data"):
        bootstrap_statistic(lambda a, b: spearmanr(a, b).statistic, np.ones(5), np.arange(5))


def test_the_table_is_markdown_and_shows_what_does_not_hold():
    holds = record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    fails = record("T2", effect=HIGH, control=LOW, seeds=SEEDS)
    lines = claims_table([holds, fails]).splitlines()
    assert all(len(re.findall(r"(?<!\\)\|", line)) == 8 for line in lines)
    assert lines[2].startswith(r"| T1 | a \| statement | gap: 0.92 [") and lines[2].endswith("| yes |")
    assert lines[3].endswith("| at most 0.1 (upper bound) | **no** |")


def test_the_readme_block_is_renewed_and_nothing_else():
    found = record("T1", effect=HIGH, control=LOW, seeds=SEEDS)
    text = f"before\n{README_START}\nstale rows\n{README_END}\nafter\n"
    once = claims.readme_with(text, [found])
    assert once == claims.readme_with(once, [found])
    assert once.startswith("before\n") and once.endswith("\nafter\n") and "stale" not in once and "| T1 |" in once
    with pytest.raises(ValueError, match=r"README\.md: needs the lines"):
        claims.readme_with("no marks", [found])


def test_the_registry_is_sound():
    for key, claim in CLAIMS.items():
        assert key == claim.id
        assert {claim.direction, claim.control_direction} <= {"at least", "at most"}
        assert claim.effect_name and claim.control_name and claim.statement.endswith(".") == (key[0] != "T")


def test_the_committed_records_were_judged_by_the_registry():
    for r in [*load_records(ROOT / "figures"), *load_records(ROOT / "figures/full")]:
        claim = CLAIMS[r.id]
        assert (r.threshold, r.control["threshold"]) == (claim.needs, claim.control_needs)
        assert (r.statement, r.notebook, r.control["name"]) == (
            claim.statement,
            claim.notebook,
            claim.control_name,
        )
        assert r.holds == claim.holds(r.ci_low, r.ci_high, r.control["value"])
        assert (ROOT / "notebooks" / f"{r.notebook}.ipynb").exists()


def test_the_readme_shows_the_committed_records(monkeypatch):
    monkeypatch.chdir(ROOT)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    shipped = claims.shipped_records()
    assert readme == claims.readme_with(readme, shipped), "run: python -m unifylens.evidence.claims"
    assert [r.id for r in shipped] == [i for i in CLAIMS if i[0] != "T"]
    assert {r.id for r in shipped if r.profile == "quick"} == {"B4", "C11"} and {r.seeds for r in shipped} == {4, 10}


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
    assert lines[0].startswith("scratch: not as with the reported settings: T1 does NOT hold: gap 0.92")
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

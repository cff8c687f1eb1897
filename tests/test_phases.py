"""Phase boundaries of curves whose boundaries are known, and of curves that have none."""

import math

import numpy as np
import pandas as pd
import pytest

import unifylens as ul
from unifylens.config import TrainConfig
from unifylens.measures.intervals import mean_interval
from unifylens.measures.phases import (
    Phases,
    change_points,
    detect,
    first_step,
    half_transfer,
    learnt,
    rise,
    sharpness,
    summarise,
    when_reached,
)

EVALS = np.unique(np.round(np.geomspace(1, 4001, 40) - 1))
EVEN = np.linspace(0, 4000, 41)


def ramp(steps, start, end, low=0.05, high=0.85):
    """Flat, then straight in log(step + 1) from `start` to `end`, then flat."""
    return np.interp(np.log1p(steps), np.log1p([start, end]), [low, high])


@pytest.mark.parametrize("steps", [EVALS, EVEN], ids=["log evaluations", "even evaluations"])
@pytest.mark.parametrize("start, end", [(200, 900), (300, 2000)])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_a_ramp_is_found_where_it_is(steps, start, end, noise):
    values = ramp(steps, start, end) + np.random.default_rng(0).normal(0, noise, len(steps))
    found = rise(steps, values)
    np.testing.assert_allclose(found, (start, end), rtol=0.25)


@pytest.mark.parametrize("centre", [100, 400, 1000])
def test_a_sigmoid_rise_lies_between_its_shoulders(centre):
    values = 0.8 / (1 + np.exp(-5 * (np.log1p(EVALS) - np.log1p(centre))))
    values += np.random.default_rng(1).normal(0, 0.01, len(EVALS))
    start, end = rise(EVALS, values)
    assert centre / 3 < start < centre < end < centre * 3
    at_start, at_end = np.interp([start, end], EVALS, values)
    assert at_start < 0.2 and at_end > 0.6


def test_a_straight_ramp_in_steps_on_the_linear_scale():
    values = np.interp(EVEN, [1000, 2500], [0.1, 0.9])
    np.testing.assert_allclose(change_points(EVEN, values, scale="linear"), (1000, 2500), atol=100)


@pytest.mark.parametrize("seed", range(10))
def test_a_flat_curve_has_no_rise(seed):
    values = 0.5 + np.random.default_rng(seed).normal(0, 0.02, len(EVALS))
    assert all(map(math.isnan, rise(EVALS, values)))
    # The bends themselves are always found: that is why `rise` looks at the height.
    assert np.isfinite(change_points(EVALS, values)).all()


@pytest.mark.parametrize("steps", [TrainConfig().evaluation_steps(), EVEN[:16], EVEN[:8]], ids=len)
@pytest.mark.parametrize("size", [1 / 3, 1.0])
def test_noise_has_no_rise(steps, size):
    """Noise of a third of `minimum` had one in a quarter of curves, noise of all of it in 0.95."""
    draw = np.random.default_rng(1)
    found = [rise(steps, draw.normal(0, size * 0.1, len(steps))) for _ in range(400)]
    assert np.isfinite(found).any(axis=1).mean() <= 0.02


def test_a_curve_of_noise_that_once_had_a_rise():
    assert np.isnan(rise(TrainConfig().evaluation_steps(), np.random.default_rng(1).normal(0, 0.1 / 3, 32))).all()


def test_a_rise_that_training_cut_off_has_no_end():
    values = ramp(EVALS, 300, 2000)
    start, end = rise(EVALS[EVALS < 900], values[EVALS < 900])
    assert start == pytest.approx(300, rel=0.25) and math.isnan(end)
    cut = history().query("step < 600")
    found = detect(cut, baseline=2.0)
    assert found.unification_start == pytest.approx(200, rel=0.25) and math.isnan(found.unification_end)


def test_the_largest_climb_is_taken_and_not_the_highest_point():
    values = np.interp(np.log1p(EVALS), np.log1p([0, 20, 200, 1500]), [0.7, 0.85, 0.2, 0.8])
    np.testing.assert_allclose(rise(EVALS, values), (200, 1500), rtol=0.25)


@pytest.mark.parametrize("level", [0.0, 0.4])
def test_a_constant_curve_has_no_rise(level):
    assert all(map(math.isnan, rise(EVALS, np.full(len(EVALS), level))))


def test_a_jump_between_two_evaluations_is_bracketed_by_them():
    start, end = rise(EVALS, (EVALS > 500).astype(float))
    assert EVALS[EVALS < 500][-2] <= start < 500 < end <= EVALS[EVALS > 500][1]


def test_a_fall_is_no_rise_and_a_small_rise_is_one_only_if_asked_for():
    assert all(map(math.isnan, rise(EVALS, -ramp(EVALS, 200, 900))))
    small = ramp(EVALS, 200, 900, 0.30, 0.36)
    assert all(map(math.isnan, rise(EVALS, small)))
    np.testing.assert_allclose(rise(EVALS, small, minimum=0.05), (200, 900), rtol=0.25)


def test_a_dip_before_the_rise_is_not_part_of_it():
    values = np.interp(np.log1p(EVALS), np.log1p([0, 100, 1000]), [0.3, 0.0, 0.9])
    np.testing.assert_allclose(rise(EVALS, values), (100, 1000), rtol=0.25)


def test_a_deep_fall_before_the_rise_does_not_hide_it():
    steps = np.unique(np.geomspace(10, 900, 32).round())
    times = np.log(steps)
    knots = np.log([10, 40, 100, 430, 900])
    values = np.interp(times, knots, [0.2, -0.15, -0.12, 0.5, 0.45])
    start, end = rise(steps, values)
    assert 80 < start < 125
    assert 370 < end < 500


def test_change_points_do_not_depend_on_the_unit_of_the_values():
    values = ramp(EVALS, 200, 900)
    assert change_points(EVALS, 7 * values - 3) == change_points(EVALS, values)


def test_first_step_is_linear_between_evaluations():
    steps, values = [0, 10, 20, 30], [4.0, 3.0, 1.0, 2.0]
    assert first_step(steps, values, 2.0) == 15.0
    assert first_step(steps, values, 5.0) == 0.0
    assert math.isnan(first_step(steps, values, 0.5))
    assert first_step(steps, np.negative(values), -2.0, "above") == 15.0


def history(noise=0.0, recall=0.99):
    return pd.DataFrame(
        {
            "step": EVALS,
            "loss": np.interp(np.log1p(EVALS), np.log1p([0, 100, 3000]), [4.0, 2.0, 0.1]),
            "recall": np.interp(np.log1p(EVALS), np.log1p([500, 3000]), [0.1, recall]),
            "unification": ramp(EVALS, 200, 900) + np.random.default_rng(0).normal(0, noise, len(EVALS)),
        }
    )


def test_detect_orders_the_phases_of_a_typical_history():
    found = detect(history(noise=0.01), baseline=2.0)
    assert 80 < found.baseline_reached < 101
    assert found.unification_start == pytest.approx(200, rel=0.25)
    assert found.unification_end == pytest.approx(900, rel=0.25)
    # Known to two evaluations only, 2614 and 4000.
    assert 2614 < found.recall_complete < 4000


def test_detect_says_nan_for_what_did_not_happen():
    found = detect(history(recall=0.9).assign(unification=0.4), baseline=0.05)
    assert all(math.isnan(value) for value in vars(found).values())


def test_detect_leaves_out_empty_cells_and_takes_another_column():
    full = history()
    gaps = full.assign(centred=full["unification"].where(full.index % 2 == 0), unification=0.0)
    found = detect(gaps, baseline=2.0, column="centred")
    assert found.unification_start == pytest.approx(200, rel=0.3)
    assert math.isnan(detect(full.head(3), baseline=2.0).unification_start)


def test_summarise_counts_the_missing_and_covers_the_mean():
    runs = [Phases(100.0 + i, 200.0 + 10 * i, math.nan if i < 3 else 900.0, math.nan) for i in range(5)]
    table = summarise(runs)
    assert table.index.tolist() == list(vars(runs[0]))
    start = table.loc["unification_start"]
    ends = [200.0 + 10 * i for i in range(5)]
    assert start[["mean", "ci_low", "ci_high"]].tolist() == pytest.approx(mean_interval(ends))
    assert table["n"].tolist() == [5, 5, 2, 0]
    assert table["n_missing"].tolist() == [0, 0, 3, 5]
    assert table.loc["unification_end", ["ci_low", "ci_high"]].tolist() == [900, 900]
    assert table.loc["recall_complete", ["mean", "ci_low", "ci_high"]].isna().all()
    pd.testing.assert_frame_equal(table, summarise(runs))
    assert math.isnan(summarise(runs[:1]).loc["baseline_reached", "ci_low"])


def test_wrong_input_is_named():
    with pytest.raises(KeyError, match="recall"):
        detect(history().drop(columns="recall"), baseline=2.0)
    for baseline in (0, math.nan):
        with pytest.raises(ValueError, match="baseline"):
            detect(history(), baseline=baseline)
    with pytest.raises(ValueError, match="scale is 'cubic'"):
        change_points(EVALS, EVALS, scale="cubic")
    with pytest.raises(ValueError, match="n_changes is 2"):
        change_points([0, 1, 2], [0, 1, 2])
    with pytest.raises(ValueError, match="direction is 'up'"):
        first_step([0, 1], [0, 1], 0.5, "up")
    with pytest.raises(ValueError, match="increase"):
        first_step([0, 0], [0, 1], 0.5)
    with pytest.raises(ValueError, match="finite"):
        first_step([0, 1], [0, math.nan], 0.5)
    with pytest.raises(ValueError, match="phases is empty"):
        summarise([])


def test_a_value_at_the_step_at_which_another_is_reached():
    history = pd.DataFrame(
        {"step": [0, 10, 20, 40], "transfer": [0.0, 0.2, np.nan, 0.8], "recall": [0.0, 0.5, 0.9, 1.0]}
    )
    # between steps 10 and 40 recall 0.75 is reached at 25, where transfer is 0.5
    assert when_reached(history, "transfer", "recall", 0.75) == pytest.approx(0.5)
    assert when_reached(history, "transfer", "recall", 0.0) == 0.0
    assert np.isnan(when_reached(history, "transfer", "recall", 1.1))
    assert np.isnan(when_reached(history.assign(recall=np.nan), "transfer", "recall", 0.5))
    with pytest.raises(KeyError, match="minority"):
        when_reached(history, "transfer", "minority", 0.5)


def test_half_transfer_by_hand():
    shares = np.array([0.1, 0.2, 0.4, 0.8])
    # half way between 0.3 and 0.7 is half way between 0.2 and 0.4 in doublings
    found, known = half_transfer(shares, np.array([0.2, 0.3, 0.7, 0.9]))
    assert found == pytest.approx(0.2 * 2**0.5) and known == "reached"
    assert half_transfer(shares, np.array([0.1, 0.2, 0.3, 0.4])) == (0.8, "above")
    assert half_transfer(shares, np.array([0.6, 0.7, 0.8, 0.9])) == (0.1, "below")
    found, known = half_transfer(shares, np.array([0.1, 0.5, 0.4, 0.9]))
    assert found == pytest.approx(0.2) and known == "reached"
    with pytest.raises(ValueError, match="above 0"):
        half_transfer(np.array([0.0, 0.1]), np.array([0.0, 1.0]))


@pytest.mark.parametrize("scale", [0.1, 0.5, 2.0])
def test_sharpness_finds_the_width_of_a_logistic(scale):
    shares = np.repeat(np.geomspace(0.05, 0.8, 9), 2)
    chance, middle = 1 / 8, np.log2(0.21)
    up = 1 / (1 + np.exp(-(np.log2(shares) - middle) / scale))
    assert sharpness(shares, chance + (1 - chance) * up, chance) == pytest.approx(2 * np.log(3) * scale, rel=1e-3)
    quarter, three = middle - scale * np.log(3), middle + scale * np.log(3)
    assert three - quarter == pytest.approx(2 * np.log(3) * scale)
    with pytest.raises(ValueError, match="above 0"):
        sharpness(np.array([0.0, 0.1]), np.array([0.0, 1.0]), chance)


def test_levels_count_as_learnt_only_where_every_kind_of_copy_is_known():
    table = pd.DataFrame(
        {
            "level": [2, 2, 1, 1, 3, 3],
            "at_home": [1.0, 1.0, 0.9, 1.0, 1.0, 1.0],  # level 1: 0.95 in the mean
            "away": [np.nan, np.nan, 1.0, 1.0, 0.5, 1.0],  # level 2 has no such copies, level 3 does not know them
        }
    )
    assert learnt(table, "level", ["at_home", "away"], 0.95) == [2, 1]
    assert learnt(table, "level", ["at_home"], 0.96) == [2, 3]
    with pytest.raises(KeyError, match="elsewhere"):
        learnt(table, "level", ["elsewhere"], 0.95)


def cells_of(transfer, seed=0):
    """The late cells of one seed of `designs.plasticity`, whose transfer is planted."""
    cells = [(e.train, labels["boundary"]) for labels, e in ul.designs.plasticity() if labels["condition"] == "late"]
    cells = cells[: len(ul.designs.PLASTIC) * len(ul.designs.PLASTIC_BOUNDARIES)]
    steps = np.array([round(train.steps * (1 - boundary)) for train, boundary in cells])
    left = np.array([train.decay_left(train.steps - n) for (train, _), n in zip(cells, steps, strict=True)])
    noise = np.random.default_rng(seed).normal(0, 0.02, len(left))
    return pd.DataFrame({"seed": seed, "decay": left, "steps": steps, "transfer": transfer(left, steps) + noise})


@pytest.mark.parametrize(
    ("transfer", "holds", "control_holds"),
    [
        (lambda decay, steps: 1 - np.exp(-decay), True, True),  # what the claim says
        (lambda decay, steps: steps / 267, False, False),  # what closes the window is that steps run out
        (lambda decay, steps: 0 * decay, False, False),  # late facts do nothing
    ],
)
def test_the_window_and_its_control_fail_where_they_should(transfer, holds, control_holds, tmp_path, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path))
    table = pd.concat([cells_of(transfer, seed) for seed in range(4)])
    decay, steps = (ul.phases.within_seeds(table, name, "transfer") for name in ("decay", "steps"))
    found = ul.claims.record("B1-window", effect=decay, control=decay - steps, seeds=range(4))
    assert (found.ci_low >= 0.8) == holds and found.control["holds"] == control_holds


def test_a_rank_correlation_within_seeds_needs_five_rows():
    with pytest.raises(ValueError, match="a seed has 4 rows; allowed: 5 or more"):
        ul.phases.within_seeds(cells_of(lambda decay, steps: decay)[:4], "decay", "transfer")


def test_the_order_is_kept_from_the_step_at_which_it_is_there():
    rows = [
        {"seed": seed, "step": step, "parallel": share, "unification": (share if step > 20 else -share) * (1 + seed)}
        for seed in range(2)
        for step in (0, 20, 50, 100)
        for share in (0.0, 0.1, 0.3)
    ]
    history = pd.DataFrame(rows)
    assert ul.phases.order_kept(history, 49).tolist() == pytest.approx([-1, -1])
    assert ul.phases.order_kept(history, 50).tolist() == pytest.approx([1, 1])
    with pytest.raises(ValueError, match="before the first evaluation"):
        ul.phases.order_kept(history, -1)

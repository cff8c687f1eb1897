"""Intervals hold the truth as often as they say, for seeds and for models that come in groups."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import unifylens as ul
from unifylens.measures import intervals
from unifylens.measures.intervals import mean_interval, share_interval, statistic_interval

LEAST = 0.93
DRAWS = 20_000
SEEDS = {
    "normal": (lambda draw, size: draw.normal(size=size), 0.0),
    "uniform": (lambda draw, size: draw.random(size), 0.5),
    "Beta(8, 1)": (lambda draw, size: draw.beta(8, 1, size), 8 / 9),
    "exponential": (lambda draw, size: draw.exponential(size=size), 1.0),
    "log-normal, sd 0.75": (lambda draw, size: draw.lognormal(0, 0.75, size), np.exp(0.75**2 / 2)),
}


def covered(values, mean, quantile):
    """Share of rows whose interval, `quantile` standard errors to each side, holds the mean."""
    off = np.abs(values.mean(1) - mean)
    return float(np.mean(off <= quantile * values.std(1, ddof=1) / values.shape[1] ** 0.5))


def table(mark):
    """Rows of the table of the module's docstring whose header begins with a cell."""
    text = intervals.__doc__.split(f"| {mark} |")[1].split("\n\n")[0]
    names, _, *rows = (f"| {mark} |" + text).strip().splitlines()
    split = [[cell.strip() for cell in row.strip("| ").split("|")] for row in (names, *rows)]
    return {row[0]: dict(zip(split[0][1:], row[1:], strict=True)) for row in split[1:]}


@pytest.mark.parametrize("n", [2, 4, 5, 10])
def test_intervals_of_a_mean_cover_what_the_table_says(n):
    draw = np.random.default_rng(n)
    told = table("seeds")[str(n)]
    for name, (values, mean) in SEEDS.items():
        found = covered(values(draw, (DRAWS, n)), mean, intervals._quantile(n))
        assert found >= LEAST, name
        assert found == pytest.approx(float(told[name]), abs=0.008), name


@pytest.mark.parametrize("n", [4, 5, 10])
def test_a_lower_level_would_not_do(n):
    draw = np.random.default_rng(n)
    values, mean = SEEDS["exponential"]
    found = covered(values(draw, (DRAWS, n)), mean, stats.t.ppf(0.975, n - 1))
    assert found < LEAST and found == pytest.approx(float(table("seeds")[str(n)]["t, exponential"]), abs=0.01)


def test_the_interval_is_the_one_whose_coverage_is_drawn():
    values = np.random.default_rng(0).normal(size=5)
    mean, low, high = mean_interval(values)
    half = intervals._quantile(5) * values.std(ddof=1) / 5**0.5
    assert (mean, low, high) == pytest.approx((values.mean(), values.mean() - half, values.mean() + half))
    assert mean_interval([0.9, 1.0, 1.0], within=(0, 1))[2] == 1.0
    assert mean_interval(values, within=(-np.inf, mean))[1] == low


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=6))
def test_every_interval_is_finite_and_holds_the_mean(values):
    mean, low, high = mean_interval(values)
    assert np.isfinite([mean, low, high]).all() and low <= mean <= high
    assert mean_interval(values, within=(-1, 1)) == pytest.approx((mean, max(low, -1), min(high, 1)))


def test_equal_values_have_no_width_unless_they_move_in_steps():
    assert mean_interval([1.0, 1.0]) == (1.0, 1.0, 1.0)
    mean, low, high = mean_interval([1.0] * 5, within=(-1, 1), step=0.1)
    assert (mean, high) == (1.0, 1.0)
    assert low == pytest.approx(1 - 0.1 * (1 - 0.025 ** (1 / 5)))


@pytest.mark.parametrize(("n", "noise"), [(4, 0.1), (5, 0.1), (10, 0.1), (5, 0.05), (5, 0.2)])
def test_rank_correlations_of_six_levels_are_covered_with_their_step(n, noise):
    """They are often all 1: without the step, four and five seeds cover 0.82 and 0.89."""
    draw, level = np.random.default_rng(0), np.arange(6)

    def correlations(size):
        off = stats.rankdata(level / 5 + noise * draw.normal(size=(*size, 6)), axis=-1) - 1 - level
        return 1 - (off**2).sum(-1) / 35

    truth = correlations((20_000,)).mean()
    found = [mean_interval(values, (-1, 1), ul.measures.rank_step(6)) for values in correlations((2000, n))]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= LEAST - 0.01


def drawn(draw, places, n_seeds, noise):
    """Score and transfer `[condition, seed]` of models whose conditions have places between 0 and 1."""
    places = places[:, None] + 0 * draw.random((1, n_seeds))
    common = 0.05 * draw.normal(size=(2, 1, n_seeds))
    score = places + noise * draw.normal(size=places.shape) + common[0]
    return score, 1 / (1 + np.exp(-8 * (places - 0.45 + noise * draw.normal(size=places.shape) + common[1])))


def rho(x, y):
    x, y = (stats.rankdata(values.ravel()) for values in (x, y))
    return float(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize("by", ["seed", "condition"])
@pytest.mark.parametrize(("n_seeds", "n_conditions", "noise"), [(4, 6, 0.1), (5, 12, 0.05), (4, 20, 0.05)])
def test_correlations_over_models_are_covered(by, n_seeds, n_conditions, noise):
    draw = np.random.default_rng(0)
    held = []
    for _ in range(8 if by == "seed" else 1):
        places = draw.random(n_conditions if by == "seed" else 2000)
        truth = rho(*drawn(draw, places, 4000 if by == "seed" else n_seeds, noise))
        for _ in range(50 if by == "seed" else 400):
            here = places if by == "seed" else draw.random(n_conditions)
            score, transfer = drawn(draw, here, n_seeds, noise)
            condition, seed = np.indices(score.shape)
            groups = (seed if by == "seed" else condition).ravel()
            _, low, high = statistic_interval(rho, score.ravel(), transfer.ravel(), groups=groups)
            held.append(low <= truth <= high)
    assert np.mean(held) >= LEAST


def test_a_difference_between_two_sides_of_a_cut_is_covered():
    """As transfer of unified minus that of separate models, of 4 seeds in each of 20 conditions."""
    draw = np.random.default_rng(0)

    def models(n):
        places, group = 0.7 * draw.random(n), np.repeat(np.arange(n), 4)
        score = places[group] + 0.07 * draw.normal(size=4 * n)
        return score, 1 / (1 + np.exp(-12 * (places + 0.1 * draw.normal(size=n) - 0.35)[group])), group

    def gap(score, transfer):
        return transfer[score > 0.45].mean() - transfer[score < 0.25].mean()

    truth = gap(*models(100_000)[:2])
    samples = (models(20) for _ in range(800))
    found = [statistic_interval(gap, score, transfer, groups=group) for score, transfer, group in samples]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= LEAST


@pytest.mark.parametrize("part", ["total", "indirect", "direct"])
def test_parts_of_a_mediation_are_covered(part):
    draw, level = np.random.default_rng(0), np.linspace(0, 1, 6)

    def models(n):
        seed = 0.1 * draw.normal(size=(n, 1))
        mediator = 0.8 * level + seed + 0.15 * draw.normal(size=(n, 6))
        y = 0.5 * level + 0.6 * mediator + 0.5 * seed + 0.15 * draw.normal(size=(n, 6))
        return np.tile(level, n), mediator.ravel(), y.ravel()

    def effect(*columns):
        return ul.measures.mediation(*columns)[part]

    truth, groups = effect(*models(20_000)), np.repeat(np.arange(5), 6)
    found = [statistic_interval(effect, *models(5), groups=groups) for _ in range(400)]
    assert np.mean([low <= truth <= high for _, low, high in found]) >= LEAST


def test_of_a_mean_both_are_the_same():
    values = np.random.default_rng(0).normal(size=7)
    assert statistic_interval(np.mean, values) == pytest.approx(mean_interval(values))
    grouped = statistic_interval(np.mean, np.repeat(values, 3), groups=np.repeat(np.arange(7), 3))
    assert grouped == pytest.approx(mean_interval(values))


def test_models_that_go_together_are_left_out_together():
    values = np.repeat(np.random.default_rng(1).normal(size=6), 20)
    _, low, high = statistic_interval(np.mean, values)
    _, group_low, group_high = statistic_interval(np.mean, values, groups=np.repeat(range(6), 20))
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
def test_what_has_no_interval(arrays, groups, complaint):
    with pytest.raises(ValueError, match=complaint):
        statistic_interval(lambda *a: 0.0, *arrays, groups=groups)


def test_one_value_and_a_table_have_no_mean_interval():
    for values in ([1.0], [[1.0, 2.0], [3.0, 4.0]]):
        with pytest.raises(ValueError, match="allowed: two or more"):
            mean_interval(values)


def test_an_interval_that_few_groups_cannot_give_is_not_a_number():
    x, groups = np.arange(6.0), [0, 0, 1, 1, 2, 2]
    value, low, high = statistic_interval(lambda v: v.mean() if len(v) > 4 else np.nan, x, groups=groups)
    assert value == 2.5 and np.isnan([low, high]).all()
    three, groups = np.random.default_rng(0).normal(size=(3, 6)), np.repeat([0, 1], 3)
    found = statistic_interval(ul.measures.partial_rank_correlation, *three, groups=groups)
    assert np.isnan(found[1:]).all(), "three rows are refused"


def test_an_undefined_statistic_is_refused():
    with pytest.raises(ValueError, match="got nan on the data"):
        statistic_interval(ul.measures.rank_correlation, np.ones(5), np.arange(5))


def test_shares_have_exact_intervals():
    assert share_interval(24, 24) == pytest.approx((1.0, 0.025 ** (1 / 24), 1.0))
    assert share_interval(18, 24) == pytest.approx((0.75, 0.5329, 0.9023), abs=1e-4)
    with pytest.raises(ValueError, match="passed is 3 of 2"):
        share_interval(3, 2)
    with pytest.raises(ValueError, match="passed is 0 of 0"):
        share_interval(0, 0)

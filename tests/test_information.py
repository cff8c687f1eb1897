"""Information measures against sums written out cell by cell, and against identities they must obey."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unifylens.measures.information import (
    conditional_entropy,
    conditional_mutual_information,
    entropy,
    mutual_information,
)


def tables(ndim):
    """Tables of counts, many of them with empty cells, at least one cell filled."""
    shapes = st.tuples(*[st.integers(1, 4)] * ndim)
    return shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(0, 5))).filter(np.any)


def test_known_values():
    assert entropy([1, 1, 1, 1]) == 2.0
    assert entropy([0, 7, 0]) == 0.0
    assert mutual_information([[1, 0], [0, 1]]) == 1.0
    assert mutual_information([[1, 1], [1, 1]]) == 0.0
    assert conditional_entropy([[1, 1], [1, 1]]) == 1.0
    assert conditional_entropy([[1, 0], [0, 1]]) == 0.0
    assert entropy([0.9, 0.1]) == pytest.approx(0.4689955935892812)


def test_conditioning_can_reveal_and_hide():
    xor = np.zeros((2, 2, 2))
    same = np.zeros((2, 2, 2))
    for a in (0, 1):
        same[a, a, a] = 1
        for b in (0, 1):
            xor[a, b, a ^ b] = 1
    assert mutual_information(xor.sum(2)) == 0.0
    assert conditional_mutual_information(xor) == 1.0
    assert mutual_information(same.sum(2)) == 1.0
    assert conditional_mutual_information(same) == 0.0


@given(tables(2))
def test_two_dimensions_against_the_sums_written_out(joint):
    p = joint / joint.sum()
    information = uncertainty = 0.0
    for (a, b), cell in np.ndenumerate(p):
        if cell > 0:
            information += cell * math.log2(cell / (p[a].sum() * p[:, b].sum()))
            uncertainty -= cell * math.log2(cell / p[:, b].sum())
    assert mutual_information(joint) == pytest.approx(information, abs=1e-12)
    assert conditional_entropy(joint) == pytest.approx(uncertainty, abs=1e-12)


@given(tables(3))
def test_three_dimensions_against_the_mean_over_the_condition(joint):
    p = joint / joint.sum()
    expected = sum(p[..., c].sum() * mutual_information(p[..., c]) for c in range(p.shape[2]) if p[..., c].any())
    assert conditional_mutual_information(joint) == pytest.approx(expected, abs=1e-12)


@given(tables(2), st.floats(1e-200, 1e200), st.randoms(use_true_random=False))
def test_scale_and_order_do_not_matter(joint, scale, random):
    rows = random.sample(range(len(joint)), len(joint))
    for measure in (entropy, mutual_information, conditional_entropy):
        assert measure(joint * scale) == pytest.approx(measure(joint), abs=1e-9)
        assert measure(joint[rows]) == pytest.approx(measure(joint), abs=1e-12)
        assert measure(joint) >= 0.0
    assert mutual_information(joint.T) == pytest.approx(mutual_information(joint), abs=1e-12)
    assert mutual_information(joint) <= min(entropy(joint.sum(0)), entropy(joint.sum(1))) + 1e-12


@pytest.mark.parametrize("measure", [entropy, mutual_information, conditional_entropy])
@pytest.mark.parametrize("bad", [[[0, 0]], [[1, -1]], [[1, np.nan]], [[1, np.inf]]])
def test_tables_without_a_distribution_are_refused(measure, bad):
    with pytest.raises(ValueError, match="must"):
        measure(bad)


def test_dimensions_are_checked():
    with pytest.raises(ValueError, match="2 dimensions"):
        mutual_information([1, 2])
    with pytest.raises(ValueError, match="3 dimensions"):
        conditional_mutual_information([[1, 2]])

"""What claims must not take for a result: planted counter-examples (others stand in `test_claims`)."""

import numpy as np
import pytest

from unifylens import claims

SEEDS = [0, 1, 2, 3]
NEAR = np.array([0.0, 0.01, -0.01, 0.0])


@pytest.fixture(autouse=True)
def figures(monkeypatch, tmp_path):
    monkeypatch.setenv("UNIFYLENS_FIGURES", str(tmp_path))


# by claim: an effect and a control that pass, and controls that must not
PLANTED = {
    "C2": (0.95, -0.5, [0.9]),  # the order is there from the start, not visible halfway
    "B1": (0.6, 0.99, [0.9]),  # late copies were not learnt
    "B1-reopened": (0.4, 0.01, [0.35]),  # a restart raises transfer whether or not there are new parallel facts
    "C9": (0.3, 0.3, [0.7]),  # different facts are parted less, and no fact stands out
    "C3-facts": (0.57, 0.5, [0.57]),  # the score tells how frequent an answer is
    "B2-subject": (0.35, 0.99, [0.7]),  # separate models read no subject even in one language
    "C6": (0.1, 0.0, [0.1]),  # what moves transfer is that facts are not learnt
    "C7": (0.1, 0.0, [0.1]),
    "C4": (0.3, 0.01, [0.25]),  # all of the fall is output prior
    "C4-object": (0.15, 1.0, [0.7]),  # copies away from home are forgotten
    "C5": (0.4, 0.125, [0.5]),  # facts without a shared word transfer, too: it is not about their words
    "C5-words": (0.6, 0.99, [0.8]),  # not learnt
    "B3": (0.6, 0.99, [0.94]),  # the first run
    "B7": (0.6, 1.0, [0.9]),  # not at equal recall
    "B5-early": (0.1, 1.0, [0.95]),  # what comes late is not learnt
    "B5-inference": (0.15, 0.0, [0.1]),  # an edit brings facts across whose words are unshared, too
}


@pytest.mark.parametrize("claim_id", PLANTED)
def test_controls_fail_on_planted_counter_examples(claim_id):
    effect, control, bad = PLANTED[claim_id]
    passes = claims.record(claim_id, effect=effect + NEAR, control=control + NEAR / 10, seeds=SEEDS)
    assert passes.control["holds"] and passes.holds
    for value in bad:
        found = claims.record(claim_id, effect=effect + NEAR, control=value + NEAR, seeds=SEEDS)
        assert not found.control["holds"] and not found.holds
    nothing = claims.record(claim_id, effect=NEAR, control=control + NEAR / 10, seeds=SEEDS)
    assert nothing.control["holds"] and not nothing.holds


def test_mixture_alone_is_no_c5():
    # half of the facts fall to chance and the others stay: the mean falls by 0.4, and C5 must see nothing
    shared, unshared = np.array([0.92, 0.9, 0.91, 0.93]), np.full(4, 0.125)
    assert (shared - (shared + unshared) / 2).min() > 0.35
    found = claims.record("C5", effect=shared - shared[::-1], control=unshared, seeds=SEEDS)
    assert found.control["holds"] and not found.holds


def test_states_that_are_not_alike_or_bring_transfer_are_no_b5_align():
    found = claims.record("B5-align", effect=0.03 + NEAR, control=0.5 + NEAR, seeds=SEEDS)
    assert found.holds
    unlike = claims.record("B5-align", effect=0.03 + NEAR, control=0.2 + NEAR, seeds=SEEDS)
    brings = claims.record("B5-align", effect=0.3 + NEAR, control=0.5 + NEAR, seeds=SEEDS)
    assert not unlike.control["holds"] and not unlike.holds
    assert brings.control["holds"] and not brings.holds


def test_an_order_that_each_base_has_by_itself_is_no_b5_order():
    chance = np.linspace(0.1, 0.4, 300)
    assert claims.record("B5-order", effect=0.8 + NEAR, permuted=chance, seeds=SEEDS).holds
    for agreement in (0.25, 0.45):  # by chance, and beyond it but below the threshold
        assert not claims.record("B5-order", effect=agreement + NEAR, permuted=chance, seeds=SEEDS).holds


def test_one_force_alone_is_no_b3():
    informative, extractable = np.array([0.7, 0.8, 0.75, 0.7]), np.array([0.02, -0.05, 0.03, 0.0])
    found = claims.record("B3", effect=np.minimum(informative, extractable), control=1 + NEAR / 10, seeds=SEEDS)
    assert not found.holds

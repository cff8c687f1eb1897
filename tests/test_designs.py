import numpy as np
import pytest

import unifylens as ul


@pytest.fixture(params=["quick", "full"])
def profile(request, monkeypatch):
    monkeypatch.setenv("UNIFYLENS_PROFILE", request.param)
    return request.param


def test_designs_exist_in_both_profiles_and_differ_in_what_they_say(profile):
    n_seeds = {"quick": 4, "full": 10}[profile]
    assert list(ul.designs.seeds()) == list(range(n_seeds))
    for design in (ul.designs.parallel_levels(), ul.designs.critical_period(), ul.designs.mixed_dials()):
        assert all(experiment.seed == labels["seed"] for labels, experiment in design)
        assert len({experiment for _, experiment in design}) == len(design)
    levels = {labels["parallel"] for labels, _ in ul.designs.parallel_levels()}
    assert levels >= {0.0, 0.1, 0.3, 0.6}  # what the notebooks show
    together = {e for design in (ul.designs.parallel_levels(), ul.designs.mixed_dials()) for _, e in design}
    assert len(together) >= 40


def test_copies_of_the_critical_period_are_expected_equally_often(profile):
    conditions = [(labels, e) for labels, e in ul.designs.critical_period() if labels["seed"] == 0]
    assert {labels["condition"] for labels, _ in conditions} == {"always", "early", "late", "never"}
    by_schedule = {}
    for labels, experiment in conditions:
        corpus = ul.Corpus.build(experiment)
        if labels["condition"] != "never":
            by_schedule.setdefault(labels["schedule"], []).append(corpus.exposure)
    for exposures in by_schedule.values():
        for exposure in exposures[1:]:
            np.testing.assert_allclose(exposure, exposures[0], atol=1e-12)

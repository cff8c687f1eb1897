"""Ways to align: every method changes the base in what it says, and the strength is chosen by the rule."""

import pandas as pd
import pytest

from unifylens.designs import alignment
from unifylens.training.cost import Member


def test_every_method_is_an_experiment_of_its_own_at_every_strength():
    design = alignment.tuning()
    assert len({experiment for _, experiment in design}) == len(design)
    assert {labels["seed"] for labels, _ in design} == set(alignment.TUNING_SEEDS)
    per_base = len(alignment.TUNING_SEEDS) * (1 + 3 * len(alignment.METHODS))
    assert len(design) == per_base * len(alignment.BASES)


@pytest.mark.parametrize("name", alignment.METHODS)
def test_a_method_changes_one_thing_and_can_be_trained(name):
    method, begin = alignment.METHODS[name], alignment.base("2 languages, words unshared", seed=1000)
    for strength in method.strengths:
        experiment = method.apply(begin, strength)
        Member.of(experiment)
        assert (experiment.world, experiment.model, experiment.seed) == (begin.world, begin.model, begin.seed)
        own, control = experiment.train.state_losses, alignment.shuffled(experiment).train.state_losses
        assert method.pairs == bool(own) and all(loss.shuffled for loss in control) and len(own) == len(control)
        if own:
            assert {loss.weight for loss in own} == {strength}
        before = [] if experiment.start is None else [experiment.start.experiment]
        total = experiment.train.steps + sum(e.train.steps for e in before)
        assert total == begin.train.steps * (1.5 if before == [begin] else 1)


def test_the_strength_of_most_transfer_that_keeps_recall_is_taken():
    rows = [
        ("a", 1.0, 0.99, 0.5),
        ("a", 2.0, 0.985, 0.6),
        ("a", 3.0, 0.90, 0.9),  # loses what was known
        ("b", 1.0, 0.50, 0.3),  # none keeps it: the least harm
        ("b", 2.0, 0.60, 0.1),
    ]
    final = pd.DataFrame(
        [
            {"method": m, "base": "x", "strength": s, "recall": r + d, "transfer": t}
            for m, s, r, t in rows
            for d in (-0.001, 0.001)
        ]
    )
    assert alignment.best_strengths(final)["x"].to_dict() == {"a": 2.0, "b": 2.0}

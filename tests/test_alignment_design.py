"""Ways to align: every method changes the base in what it says, and the strength is chosen by the rule."""

import pandas as pd
import pytest

from unifylens.corpus.corpus import Corpus
from unifylens.designs import alignment
from unifylens.training.cost import Member


def test_every_method_is_an_experiment_of_its_own_at_every_strength():
    design = alignment.tuning()
    assert len({experiment for _, experiment in design}) == len(design)
    assert {labels["seed"] for labels, _ in design} == set(alignment.TUNING_SEEDS)
    tried = sum(len(method.strengths) for method in alignment.METHODS.values())
    per_base = len(alignment.TUNING_SEEDS) * (1 + tried)
    assert len(design) == per_base * len(alignment.BASES)


@pytest.mark.parametrize("name", alignment.METHODS)
def test_a_method_changes_one_thing_and_can_be_trained(name):
    method, begin = alignment.METHODS[name], alignment.base("2 languages, words unshared", seed=1000)
    for strength in method.strengths:
        experiment = method.apply(begin, strength)
        Member.of(experiment)
        assert (experiment.world, experiment.seed) == (begin.world, begin.seed)
        assert (experiment.model == begin.model) == (method.kind != "shape")
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


def test_a_short_run_has_a_base_of_every_kind(monkeypatch, strengths):
    assert alignment.bases() == list(alignment.BASES)
    monkeypatch.setenv("UNIFYLENS_SEEDS", "2")
    assert alignment.bases() == list(alignment.FEWER)
    assert [alignment.bases(shared_subjects=share) for share in (0.5, 0.0)] == [[name] for name in alignment.FEWER]
    assert {labels["base"] for labels, _ in alignment.contest(strengths, seeds=[0])} == set(alignment.FEWER)


@pytest.fixture
def strengths():
    middle = {name: method.strengths[len(method.strengths) // 2] for name, method in alignment.METHODS.items()}
    return pd.DataFrame({base: middle for base in alignment.BASES})


def test_the_contest_has_every_method_and_what_it_is_compared_with(strengths):
    design = alignment.contest(strengths, seeds=[0, 1])
    assert len({experiment for _, experiment in design}) == len(design)
    table = pd.DataFrame([labels | {"steps": alignment.all_steps(e)} for labels, e in design])
    assert set(table["method"]) == {*alignment.METHODS, "none", "more steps"}
    assert (table.groupby("method").size() == 2 * len(alignment.BASES)).all()
    steps = table[table["kind"] == "base"].set_index(["base", "seed", "method"])["steps"]
    for _, row in table[table["kind"] != "base"].iterrows():
        assert row["steps"] == steps[row["base"], row["seed"], row["against"]]
    with pytest.raises(KeyError):
        alignment.contest(strengths.drop(index="pull, answer"), seeds=[0])


def test_a_method_of_ones_own_stands_beside_the_others(strengths):
    yours = alignment.METHODS["code-switching"]._replace(source="mine")
    design = alignment.contest(
        strengths.loc[["code-switching"]].rename({"code-switching": "mine"}), [0], {"mine": yours}
    )
    assert [labels["method"] for labels, _ in design] == ["none", "more steps", "mine"] * len(alignment.BASES)


def test_controls_are_the_methods_that_pair_states_with_other_facts_states(strengths):
    own = {(labels["base"], labels["method"]): e for labels, e in alignment.contest(strengths, seeds=[0])}
    controls = alignment.controls(strengths, seeds=[0])
    assert {labels["method"] for labels, _ in controls} == {n for n, m in alignment.METHODS.items() if m.pairs}
    for labels, experiment in controls:
        assert (
            experiment
            == alignment.shuffled(own[labels["base"], labels["method"]])
            != own[labels["base"], labels["method"]]
        )


def test_the_yardstick_counts_the_facts_that_are_added():
    for labels, experiment in alignment.yardstick(seeds=[0]):
        begin = alignment.base(labels["base"], 0)
        added = Corpus.build(experiment).parallel.sum() - Corpus.build(begin).parallel.sum()
        assert added == pytest.approx(labels["facts"], abs=1)


def test_two_methods_together_have_the_settings_of_both(strengths):
    for labels, both in alignment.together(strengths, seeds=[0]):
        begin = alignment.base(labels["base"], 0)
        for label in (labels["first"], labels["second"]):
            one = alignment.METHODS[label].apply(begin, float(strengths.loc[label, labels["base"]]))
            changed = [name for name in type(begin).model_fields if getattr(one, name) != getattr(begin, name)]
            assert changed and all(getattr(both, name) == getattr(one, name) for name in changed)


def test_cost_counts_the_start_and_what_losses_compute():
    begin = alignment.base("2 languages, words unshared", seed=0)
    plain = alignment.cost(begin)
    assert alignment.cost(alignment.more_steps(begin)) == pytest.approx(1.5 * plain)
    finished = alignment.METHODS["code-switching, finished model"].apply(begin, 0.25)
    assert alignment.cost(finished) == pytest.approx(1.5 * plain)
    assert alignment.cost(alignment.METHODS["code-switching, few weights"].apply(begin, 0.05)) == pytest.approx(
        2 * plain
    )
    first = alignment.METHODS["contrast first, words"].apply(begin, 0.3)
    assert 1.05 < alignment.cost(first) / plain < 1.12, "it acts for a fifth of the steps"
    assert 1.05 < alignment.cost(alignment.METHODS["contrast, answer"].apply(begin, 0.3)) / plain < 1.5


def test_committed_strengths_are_of_the_grid():
    chosen = alignment.chosen_strengths()
    assert list(chosen.columns) == list(alignment.BASES)
    for label, row in chosen.iterrows():
        assert set(row) <= set(alignment.METHODS[label].strengths)


def test_early_and_late_differ_in_when_a_loss_acts_alone(strengths):
    design = alignment.early_and_late(strengths, seeds=[0])
    assert {labels["base"] for labels, _ in design} == {f"{n} languages, half of subject words shared" for n in (2, 4)}
    assert {labels["method"] for labels, _ in design} == {
        name for name, method in alignment.METHODS.items() if method.kind == "states" and "first" not in name
    }
    for start in range(0, len(design), 3):
        (one, whole), (two, first), (three, second) = design[start : start + 3]
        assert [one["when"], two["when"], three["when"]] == ["throughout", "first half", "second half"]
        losses = [e.train.state_losses[0] for e in (whole, first, second)]
        assert [(loss.since, loss.until) for loss in losses] == [(0, 1), (0, 0.5), (0.5, 1)]
        assert len({loss.model_copy(update={"since": 0.0, "until": 1.0}) for loss in losses}) == 1

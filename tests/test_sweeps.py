"""Many experiments: what trains together, on which workers, in how much memory, and what is kept when it goes wrong."""

import pytest
import torch
from conftest import assert_equal_runs, quietly, tiny, weights

import unifylens as ul
from unifylens import sweeps
from unifylens.train import _Stack


def test_a_sweep_keeps_order_and_labels():
    over = {"corpus.parallel": [0.5, 0.0], "seed": range(2)}
    runs = ul.sweep(tiny(), over=over, progress=False)
    labels = [(run.experiment.corpus.parallel, run.experiment.seed) for run in runs]
    assert labels == [(0.5, 0), (0.5, 1), (0.0, 0), (0.0, 1)] and len(runs) == 4
    history, final = runs.history, runs.final
    assert list(history)[:3] == ["corpus.parallel", "seed", "step"]
    assert len(history) == sum(len(run.history) for run in runs)
    for run, label in zip(runs, labels, strict=True):
        own = history[(history["corpus.parallel"] == label[0]) & (history["seed"] == label[1])]
        assert own["loss"].tolist() == run.history["loss"].tolist()
    assert list(zip(final["corpus.parallel"], final["seed"], strict=True)) == labels
    assert final["loss"].tolist() == [run.history["loss"].iloc[-1] for run in runs]
    assert runs[-1].experiment == runs.runs[3].experiment


def test_sweep_over_the_number_of_templates():
    templates = [("topic",), ("topic", "plain")]
    runs = ul.sweep(tiny(), over={"language.templates": templates}, progress=False)
    assert [run.experiment.language.templates for run in runs] == templates


def test_sweep_over_whole_corpora():
    corpora = [ul.CorpusConfig(parallel=0.2), ul.CorpusConfig(parallel=0.6)]
    runs = ul.sweep(tiny(), over={"corpus": corpora}, progress=False)
    assert [run.experiment.corpus for run in runs] == corpora
    assert runs.history["corpus"].tolist() == [c for c in corpora for _ in range(4)]
    assert runs.final["corpus"].tolist() == corpora


def test_equal_experiments_are_trained_once_and_then_read(monkeypatch):
    stacked = []
    init = _Stack.__init__
    monkeypatch.setattr(_Stack, "__init__", lambda self, es: (stacked.append(list(es)), init(self, es))[1])
    first, other, second = quietly(tiny(), tiny(seed=1), tiny())
    assert stacked == [[tiny(), tiny(seed=1)]]
    assert first.folder == second.folder != other.folder
    assert_equal_runs(ul.train(tiny(), progress=False), first)
    assert len(stacked) == 1, "the second call must read the store"


def test_more_than_a_stack_of_models(monkeypatch):
    monkeypatch.setattr(sweeps, "STACK_SIZE", 2)
    runs = ul.sweep(tiny(), over={"seed": range(3)}, progress=False)
    assert [run.experiment.seed for run in runs] == [0, 1, 2]
    assert len({float(weights(run)["unembed.W_U"].sum()) for run in runs}) == 3


def test_an_interruption_keeps_finished_stacks(press_ctrl_c, trained):
    first, second = tiny(), tiny(**{"model.d_model": 8})
    press_ctrl_c.at = (8, 12)
    with pytest.raises(KeyboardInterrupt, match="stopped after step 13 of 40"):
        quietly(first, second)
    press_ctrl_c.at, taken = None, len(press_ctrl_c.steps)
    assert_equal_runs(quietly(first, second)[0], trained)
    assert press_ctrl_c.steps[taken:] == [(8, step) for step in range(13, 40)]


def test_ctrl_c_in_the_last_step_stops_before_the_next_stack(press_ctrl_c):
    first, second = tiny(), tiny(**{"model.d_model": 8})
    press_ctrl_c.at = (16, 39)
    with pytest.raises(KeyboardInterrupt, match="goes on from there"):
        quietly(first, second)
    assert {width for width, _ in press_ctrl_c.steps} == {16}
    press_ctrl_c.at, taken = None, len(press_ctrl_c.steps)
    quietly(first, second)
    assert press_ctrl_c.steps[taken:] == [(8, step) for step in range(40)]


def test_two_stacks_at_a_time_give_the_same_runs_and_can_be_interrupted(press_ctrl_c, monkeypatch, tmp_path):
    experiments = [tiny(seed=seed) for seed in range(4)]
    one_at_a_time = quietly(*experiments)
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "two workers"))
    monkeypatch.setattr(sweeps, "worker_count", lambda: 2)
    press_ctrl_c.at = (16, 20)
    with pytest.raises(KeyboardInterrupt, match="goes on from there"):
        quietly(*experiments)
    press_ctrl_c.at = None
    for run, expected in zip(quietly(*experiments), one_at_a_time, strict=True):
        assert run.experiment == expected.experiment
        for name, weight in weights(expected).items():
            if not name.endswith("b_K"):  # without a gradient of their own: rounding, blown up by Adam
                assert torch.allclose(weights(run)[name], weight, atol=1e-5), name

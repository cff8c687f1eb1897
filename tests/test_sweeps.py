"""Many experiments: what trains together, on which workers, in how much memory, and what is kept when it goes wrong."""

import concurrent.futures
import errno
import os
import pickle
import select
import shutil
import signal
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import assert_equal_runs, distance, quietly, tiny, weights

import unifylens as ul
from unifylens.training import cost, plan, schedule, store, trainer
from unifylens.training import cost as memory
from unifylens.training import workers as pool
from unifylens.training.progress import Progress
from unifylens.training.trainer import _Stack, train_stack


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

    def listening(self, experiments, *rest):
        stacked.append(list(experiments))
        init(self, experiments, *rest)

    monkeypatch.setattr(_Stack, "__init__", listening)
    first, other, second = quietly(tiny(), tiny(seed=1), tiny())
    assert stacked == [[tiny(), tiny(seed=1)]]
    assert first.folder == second.folder != other.folder
    assert_equal_runs(ul.train(tiny(), progress=False), first)
    assert len(stacked) == 1, "the second call must read the store"


def test_more_than_a_stack_of_models(monkeypatch):
    monkeypatch.setattr(pool, "STACK_SIZE", 2)
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
    monkeypatch.setattr(pool, "worker_count", lambda: 2)
    press_ctrl_c.at = (16, 20)
    with pytest.raises(KeyboardInterrupt, match="goes on from there"):
        quietly(*experiments)
    press_ctrl_c.at = None
    for run, expected in zip(quietly(*experiments), one_at_a_time, strict=True):
        assert run.experiment == expected.experiment
        for name, weight in weights(expected).items():
            if not name.endswith("b_K"):  # without a gradient of their own: rounding, blown up by Adam
                assert torch.allclose(weights(run)[name], weight, atol=1e-5), name


# --- what users write ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dials(tmp_path_factory):
    """A sweep over float dials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("dials")))
        over = {"corpus.parallel": np.arange(0, 0.4, 0.1), "seed": np.arange(2)}
        return ul.sweep(tiny(**{"train.steps": 10}), over=over, progress=False)


def test_slices_of_a_sweep_are_sweeps(dials):
    part = dials[2:6:2]
    assert isinstance(part, ul.Sweep) and part.runs == [dials[2], dials[4]] and part.dials == dials.dials[2:6:2]
    assert part.final["seed"].tolist() == [0, 0] and len(dials[3:3]) == 0 and len(dials[-2:]) == 2
    assert dials[np.int64(1)] is dials[1] and dials[-1] is dials.runs[-1] and list(dials) == dials.runs


@pytest.mark.parametrize("index", [True, np.True_, "seed", 1.0, None, (0, 1)])
def test_another_index_is_refused(dials, index):
    with pytest.raises(TypeError, match=r"allowed are a number or a slice, or `runs.select\(...\)` by settings"):
        dials[index]


@pytest.mark.parametrize("index", [8, -9])
def test_an_index_beyond_is_refused(dials, index):
    with pytest.raises(IndexError, match=rf"runs\[{index}\]: there are 8"):
        dials[index]


def test_dials_are_python_values(dials):
    assert {type(value) for dial in dials.dials for value in dial.values()} == {int, float}


@pytest.mark.parametrize("value", [0.3, 0.1 + 0.2, np.float32(0.3)])
@pytest.mark.parametrize("name", ["parallel", "corpus.parallel"])
def test_float_dials_are_found(dials, name, value):
    assert dials.select(**{name: value}).dials == dials.dials[6:] and len(dials.select(**{name: value, "seed": 1})) == 1


def test_equal_values_come_before_close_ones(trained):
    runs = ul.Sweep([trained] * 2, [{"level": 0.3}, {"level": 0.1 + 0.2}])
    assert [runs.select(level=v).dials for v in (0.3, 0.1 + 0.2)] == [[{"level": 0.3}], [{"level": 0.1 + 0.2}]]
    assert len(runs.select(level=0.3 + 1e-8)) == 2


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        ({"paralel": 0.3}, "'paralel' is no setting of this sweep. Did you mean 'corpus.parallel'?"),
        ({"parallel": 0.35}, "no run has corpus.parallel=0.35; its values: 0, 0.1, 0.2, 0.3."),
        ({"parallel": 0.3, "seed": 7}, "no run has seed=7 together with the other settings; its values: 0, 1."),
    ],
)
def test_what_is_not_there_is_not_selected(dials, labels, told):
    with pytest.raises(ValueError) as error:
        dials.select(**labels)
    assert told in str(error.value)


def test_a_last_name_that_means_two_settings_is_refused(trained):
    with pytest.raises(ValueError, match=r"'x' means a\.x or b\.x"):
        ul.Sweep([trained], [{"a.x": 1, "b.x": 2}]).select(x=1)


def measured_right(run):
    return run.final["recall"]


def test_measures_may_be_numbers_rows_columns_and_tables(dials):
    recall, seeds = dials.final["recall"].tolist(), [0, 1] * 4
    rows = {
        "measured_right": measured_right,
        "value": lambda run: torch.tensor(measured_right(run), dtype=torch.float64),
        "share": lambda run: {"share": measured_right(run)},
        "recall": lambda run: run.final[["recall", "transfer"]],
    }
    for name, function in rows.items():
        table = dials.measure(function, progress=False)
        assert table[name].tolist() == recall and table["seed"].tolist() == seeds and "index" not in table
    table = dials.measure(ul.transfer, progress=False)
    column = dials.measure(lambda run: run.transfer()["right"], progress=False)
    pd.testing.assert_frame_equal(column, table[["language", "right", "corpus.parallel", "seed"]])
    assert len(table) == 16 and list(table)[:2] == ["language", "n"]


def test_dials_that_hold_several_values_stand_in_one_cell(trained):
    runs = ul.Sweep([trained], [{"templates": ("topic",)}])
    assert runs.measure(measured_right, progress=False)["templates"].tolist() == [("topic",)]


@pytest.mark.parametrize("result", [None, [1], object()])
def test_a_measure_of_another_kind_is_refused(dials, result):
    with pytest.raises(TypeError, match=f"value gave a {type(result).__name__}; allowed: a table, a number, or a dict"):
        dials.measure(lambda run: result, progress=False)


@pytest.mark.parametrize("table", ["history", "final", "measure"])
def test_a_sweep_of_no_runs_has_no_table(dials, table):
    with pytest.raises(ValueError, match="the sweep has no runs"):
        dials[:0].measure(measured_right) if table == "measure" else getattr(dials[:0], table)


@pytest.mark.parametrize(
    ("over", "told"),
    [
        ({"seed": [3, 1, 3]}, "over gives seed=3 twice"),
        ({"corpus.parallel": [0, 0.0], "seed": [0, 1]}, "over gives corpus.parallel=0.0 twice"),
        ({"seed": [1, np.int64(1)]}, "over gives seed=1 twice"),
    ],
)
def test_a_value_that_stands_twice_is_told(over, told):
    with pytest.raises(ValueError, match=told):
        ul.sweep(tiny(), over=over, progress=False)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda run: ul.train([tiny()]), r"experiment is a list; allowed: an Experiment; several .* `ul.train_many`"),
        (lambda run: ul.train(run), "experiment is a Run; .* trained already, and its settings are `run.experiment`"),
        (lambda run: ul.train({"seed": 1}), "experiment is a dict"),
        (lambda run: ul.train_many(tiny()), "experiments is one Experiment; allowed: a list"),
        (lambda run: ul.train_many(run), "experiments is one Run; allowed: a list"),
        (lambda run: ul.train_many([tiny(), run]), r"experiments\[1\] is a Run"),
        (lambda run: ul.sweep(run, over={"seed": [0]}), "experiment is a Run"),
        (lambda run: ul.sweep(tiny(), over=["seed"]), "over is a list; allowed: a dict"),
        (lambda run: ul.train_design([tiny()]), r"design\[0\] is a Experiment; allowed: a pair"),
        (lambda run: ul.train_design([({}, run)]), r"design\[0\]\[1\] is a Run"),
    ],
)
def test_what_is_no_experiment_is_refused(trained, call, told):
    with pytest.raises(TypeError, match=told):
        call(trained)


def test_experiments_may_come_one_by_one():
    runs = ul.train_many((tiny(**{"train.steps": 10}, seed=seed) for seed in range(2)), progress=False)
    assert [run.experiment.seed for run in runs] == [0, 1]
    runs = ul.train_design((({"n": run.experiment.seed}, run.experiment) for run in runs), progress=False)
    assert [dial["n"] for dial in runs.dials] == [0, 1] and len(runs) == 2


# --- what trains together ------------------------------------------------------------------------------------


@pytest.fixture
def stacked(monkeypatch):
    """The stacks that are trained, as lists of experiments."""
    stacks, init = [], _Stack.__init__
    monkeypatch.setattr(_Stack, "__init__", lambda self, es, *rest: (stacks.append(list(es)), init(self, es, *rest))[1])
    return stacks


def test_learning_rate_and_decay_alone_may_differ_within_a_stack(stacked):
    over = {"train.lr": [2e-3, 1e-3], "train.weight_decay": [0.0, 0.5], "seed": [0, 1], "train.warmup": [5, 6]}
    ul.sweep(tiny(**{"train.steps": 10}), over=over, progress=False)
    assert [len(stack) for stack in stacked] == [8, 8]
    for stack in stacked:
        assert len({experiment.train.warmup for experiment in stack}) == 1
        settings = [(experiment.train.lr, experiment.train.weight_decay) for experiment in stack]
        assert settings == sorted(settings)


def test_models_of_other_local_blocks_train_in_another_stack(stacked):
    ul.sweep(tiny(**{"train.steps": 10}), over={"seed": range(2), "model.local_blocks": [0, 1]}, progress=False)
    assert sorted([e.model.local_blocks for e in stack] for stack in stacked) == [[0, 0], [1, 1]]


def test_every_member_is_trained_with_its_own_learning_rate_and_decay(monkeypatch, tmp_path):
    experiments = [tiny(), tiny(**{"train.lr": 1e-3}), tiny(**{"train.weight_decay": 2.0})]
    together = quietly(*experiments)
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "apart"))
    for run, experiment in zip(together, experiments, strict=True):
        alone = quietly(experiment)[0]
        assert distance(weights(run), weights(alone)) < 1e-5
        assert run.history["learning_rate"].tolist() == alone.history["learning_rate"].tolist()


def test_an_interrupted_stack_goes_on_in_the_company_in_which_it_began(press_ctrl_c, stacked):
    quick, slow = tiny(**{"train.steps": 12}), [tiny(seed=seed) for seed in range(3)]
    press_ctrl_c.at = (16, 20)
    with pytest.raises(KeyboardInterrupt):
        quietly(*slow)
    press_ctrl_c.at = None
    stacked.clear(), press_ctrl_c.steps.clear()
    quietly(tiny(seed=9), *reversed(slow), quick)  # more of the same shape, in another order
    assert slow in stacked and [tiny(seed=9)] in stacked
    assert sum(step > 20 for _, step in press_ctrl_c.steps) == 19 * 2 and (16, 21) in press_ctrl_c.steps


def test_a_stack_that_was_being_saved_when_it_ended_is_gone_on_with(press_ctrl_c, monkeypatch, empty_store):
    """Whatever is asked for of what is missing; the finished work is used, and nothing of it is left behind."""
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    experiments, save = [tiny(seed=seed) for seed in range(3)], store.save
    with monkeypatch.context() as patch:
        patch.setattr(store, "save", lambda e, *rest: 1 / 0 if e.seed == 1 else save(e, *rest))
        with pytest.raises(ZeroDivisionError):
            ul.train_many(experiments, stack_size=3, progress=False)
    assert [store.load(e) is not None for e in experiments] == [True, False, False]
    press_ctrl_c.steps.clear()
    times = [path.stat().st_mtime_ns for path in (empty_store / "runs").iterdir()]
    quietly(*experiments)
    assert not press_ctrl_c.steps and all(store.load(e) for e in experiments)
    assert times[0] in [path.stat().st_mtime_ns for path in (empty_store / "runs").iterdir()], "kept as it was"
    assert not list((empty_store / "interrupted").iterdir())


def test_progress_of_a_stack_whose_runs_are_all_there_goes(press_ctrl_c, empty_store):
    experiments = [tiny(seed=seed) for seed in range(2)]
    press_ctrl_c.at = (16, 20)
    with pytest.raises(KeyboardInterrupt):
        quietly(*experiments)
    press_ctrl_c.at = None
    path = Progress(experiments).path
    ul.train_many([experiments[0]], stack_size=1, progress=False)
    assert path.exists()
    ul.train_many([experiments[1]], stack_size=1, progress=False)
    assert not path.exists()


def test_a_run_that_diverged_says_so(monkeypatch):
    gradients = _Stack._gradients

    def spoilt(self, *args):
        losses, moves = gradients(self, *args)
        return losses * (float("inf") if self.step > 20 else 1.0), moves

    monkeypatch.setattr(_Stack, "_gradients", spoilt)
    with pytest.warns(UserWarning, match=r"a run \(seed 3\) diverged at step \d+: its loss"):
        runs = ul.sweep(tiny(seed=3), over={"train.steps": [40, 20]}, progress=False)
    assert runs[0].diverged_at == 21 and runs[1].diverged_at is None
    assert f"diverged at step {runs[0].diverged_at})" in repr(runs[0]) and "diverged at" not in repr(runs[1])
    assert runs.final["diverged_at"].tolist()[0] == runs[0].diverged_at and runs.final["diverged_at"].isna()[1]


# --- in how much memory --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 2.0, "8", True])
def test_a_stack_size_that_is_none_is_refused(size, stacked):
    with pytest.raises(ValueError, match=r"stack_size=.*; allowed: a whole number from 1 on, or None to choose"):
        ul.sweep(tiny(), over={"seed": range(2)}, stack_size=size, progress=False)
    assert not stacked


def test_a_given_stack_size_is_kept_to(stacked):
    ul.sweep(tiny(**{"train.steps": 10}), over={"seed": range(7)}, stack_size=3, progress=False)
    assert [len(stack) for stack in stacked] == [3, 3, 1]


def needs(experiment):
    return memory.Memory.of(experiment, ul.Corpus.build(experiment), torch.device("cpu"))


def test_stacks_fit_into_the_free_memory(stacked, monkeypatch):
    experiment = tiny(**{"train.steps": 10})
    free = int((needs(experiment).of_stack(3) + needs(experiment).of_stack(4)) / pool.SHARE_OF_FREE_MEMORY) + 2
    monkeypatch.setattr(pool, "free_bytes", lambda device: free)
    monkeypatch.setattr(pool, "worker_count", lambda: 2)
    ul.sweep(experiment, over={"seed": range(8)}, progress=False)
    assert sorted(len(stack) for stack in stacked) == [2, 2, 2, 2]
    stacked.clear()
    with pytest.raises(ValueError) as refused:
        ul.sweep(experiment, over={"seed": range(100, 200)}, stack_size=64, progress=False)
    text = str(refused.value)
    assert text.startswith("stack_size=64 needs about ") and "a model, 2 stacks at a time); " in text
    assert text.endswith(" are free; allowed: 1 to 3, or None to choose") and not stacked
    ul.sweep(experiment, over={"seed": range(100, 103)}, stack_size=64, progress=False)  # is only one stack of 3
    assert [len(stack) for stack in stacked] == [3]


def test_fewer_workers_where_memory_is_short_and_a_refusal_where_no_model_fits(stacked, monkeypatch):
    experiment = tiny(**{"train.steps": 10})
    one = needs(experiment).of_stack(1)
    monkeypatch.setattr(pool, "worker_count", lambda: 4)
    monkeypatch.setattr(pool, "free_bytes", lambda device: int(1.05 * one / pool.SHARE_OF_FREE_MEMORY))
    ul.sweep(experiment, over={"seed": range(3)}, progress=False)
    assert [len(stack) for stack in stacked] == [1, 1, 1]
    monkeypatch.setattr(pool, "free_bytes", lambda device: one // 2)
    for size in (None, 5):
        with pytest.raises(
            MemoryError, match=r"one model \(seed 9\) needs about .*world.n_subjects, world.n_relations"
        ):
            ul.sweep(experiment, over={"seed": [9]}, stack_size=size, progress=False)


# --- on which workers ----------------------------------------------------------------------------------------


def test_the_active_joblib_configuration_decides(monkeypatch):
    monkeypatch.setattr(pool, "worker_count", lambda: 5)
    before = pool.Workers.active()
    assert (before.count, before.shared, before.streams) == (5, True, True)
    with joblib.parallel_config(n_jobs=3):
        assert (pool.Workers.active().count, pool.Workers.active().shared) == (3, True)
    for backend, streams in (("loky", True), ("multiprocessing", False)):
        with joblib.parallel_config(backend):
            assert pool.Workers.active().count == 5
        with joblib.parallel_config(backend, n_jobs=2):
            workers = pool.Workers.active()
        assert (workers.count, workers.shared, workers.streams, workers.threads) == (2, False, streams, 1)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """Runs of a sweep as one thread of this process trains them, for comparison."""

    def sweep(experiment, over, stack_size):
        with monkeypatch.context() as patch:
            patch.setenv("UNIFYLENS_HOME", str(tmp_path / "trained here"))
            runs = ul.sweep(experiment, over=over, stack_size=stack_size, progress=False)
            [(run.history, run.diverged_at) for run in runs]
            return runs

    return sweep


DIALS = {"seed": range(3), "model.d_model": [16, 8]}


@pytest.fixture(scope="module")
def six(tmp_path_factory):
    """The runs of DIALS as one thread of this process trains them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNIFYLENS_HOME", str(tmp_path_factory.mktemp("six")))
        return ul.sweep(tiny(), over=DIALS, stack_size=2, progress=False)


@pytest.mark.parametrize("backend", ["loky", "multiprocessing"])
def test_worker_processes_train_the_same_models(backend, six, capsys, workers_are_forked):
    with joblib.parallel_config(backend, n_jobs=2):
        runs = ul.sweep(tiny(), over=DIALS, stack_size=2)
    for run, expected in zip(runs, six, strict=True):
        assert_equal_runs(run, expected)
    assert "6/6 models, loss=" in capsys.readouterr().err


def test_worker_processes_send_no_more_than_a_pipe_takes_at_once(monkeypatch, six, workers_are_forked):
    """Of more, one that is killed may have sent a part, and the executor would wait for the rest for ever."""
    received, sent = schedule._received, []
    monkeypatch.setattr(schedule, "_received", lambda results: received(sent.append(results) or results))
    with joblib.parallel_config("loky", n_jobs=2):
        ul.sweep(tiny(), over=DIALS, stack_size=2, progress=False)
    assert len(sent) == 4 and all(len(pickle.dumps(message)) < select.PIPE_BUF / 4 for message in sent)
    assert not list(sent[0].parent.parent.glob(".results*")), "the folder of results is gone"


def test_results_that_cannot_be_written_are_sent(tmp_path):
    [result] = schedule._train_in_process([tiny()], 1, tmp_path / "gone")
    assert schedule._received([result]) == [result] and result.experiment == tiny()


def test_stacks_are_cut_so_that_every_worker_process_gets_several():
    workers = pool.Workers(count=4, shared=False, streams=True, here=True, memory=None)
    members = [cost.Member.of(tiny(seed=seed)) for seed in range(40)]
    stacks, _ = plan.plan_stacks(members, workers, None)
    assert len(stacks) >= 16 and {len(stack.members) for stack in stacks} <= {1, 2}
    assert sorted(e.seed for stack in stacks for e in stack.experiments) == list(range(40))


def test_an_interruption_of_worker_processes_keeps_what_was_saved(monkeypatch, workers_are_forked):
    save = store.save

    def press(*content):
        run = save(*content)
        os.kill(os.getpid(), signal.SIGINT)
        return run

    signal.signal(signal.SIGINT, signal.default_int_handler)  # it is not heard where tests run in the background
    with monkeypatch.context() as patch, joblib.parallel_config("loky", n_jobs=2):
        patch.setattr(store, "save", press)
        with pytest.raises(KeyboardInterrupt, match="stopped with 0 of 4 models saved; the same call goes on"):
            ul.sweep(tiny(), over={"seed": range(4)}, stack_size=1, progress=False)
    assert len([seed for seed in range(4) if store.load(tiny(seed=seed))]) == 1


def test_a_cluster_that_loses_a_worker_gives_the_same_runs(monkeypatch, tmp_path, here, workers_are_forked):
    distributed = pytest.importorskip("distributed", reason="needs the extra: pip install unifylens[distributed]")
    import dask

    over, save, killed = {"seed": range(10)}, store.save, []
    quiet = {"distributed.scheduler.work-stealing": False, "distributed.worker.memory.terminate": False}
    quiet["distributed.worker.multiprocessing-method"] = "forkserver"
    cluster_options = {
        "n_workers": 2,
        "threads_per_worker": 1,
        "processes": True,
        "dashboard_address": ":0",
        "local_directory": str(tmp_path / "workers"),
        "silence_logs": 50,
        "worker_dashboard_address": None,
    }
    with (
        dask.config.set(quiet),
        distributed.LocalCluster(**cluster_options) as cluster,
        distributed.Client(cluster) as client,
    ):
        workers = client.run(os.getpid)

        def kill_one(*content):
            if not killed:
                killed.append(next(iter(workers.values())))
                os.kill(killed[0], signal.SIGKILL)
            return save(*content)

        monkeypatch.setattr(store, "save", kill_one)
        with joblib.parallel_config("dask"):
            runs = ul.sweep(tiny(**{"train.steps": 120}), over=over, stack_size=2, progress=False)
        assert killed and killed[0] not in client.run(os.getpid).values()
    for run, expected in zip(runs, here(tiny(**{"train.steps": 120}), over, stack_size=2), strict=True):
        assert_equal_runs(run, expected)


def test_stacks_that_the_cluster_gives_up_are_heard_of_and_others_taken_back(monkeypatch):
    future, heard, cancelled = concurrent.futures.Future(), [], []

    class Cluster:
        client = SimpleNamespace(cancel=lambda futures, force: cancelled.extend(futures))
        _results: ClassVar = {"a stack": None}

        def submit(self, function, callback):
            return future

    cluster = Cluster()
    monkeypatch.setattr(schedule, "get_active_backend", lambda prefer: (cluster, None))
    with schedule._filling_gaps_of_dask():
        assert cluster.submit(len, heard.append) is future
        future.set_exception(lost := RuntimeError("its workers died"))
    assert heard == [lost] and cancelled == ["a stack"]


# --- the bar -------------------------------------------------------------------------------------------------


def test_the_bar_weighs_stacks_by_their_arithmetic(capsys):
    small, large = (cost.Member.of(tiny(**{"model.d_model": width})) for width in (16, 64))
    assert 6 < large.flops / small.flops < 16
    bar = schedule._Bar([plan.StackPlan([small]), plan.StackPlan([large] * 3)], progress=True)
    assert bar.bar.total == 40 * (small.flops + 3 * large.flops)
    bar.advance(20 * small.flops, resumed=True)
    assert (bar.bar.n, bar.bar.initial) == (20 * small.flops, 20 * small.flops)
    bar.advance(40 * 3 * large.flops)
    bar.show({"loss": 1.5, "recall": 0.25}, done=3)
    bar.bar.close()
    last = capsys.readouterr().err.split("\r")[-1]
    assert last.startswith("training 4 models:  98%|") and "3/4 models, loss=1.50, recall=0.25" in last


# --- a disk that is full -------------------------------------------------------------------------------------

Disk = namedtuple("Disk", "total used free")


def test_too_small_a_disk_is_refused_before_training(monkeypatch, stacked, empty_store):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(0, 0, 100_000))
    told = r"training 9 models writes about .* 97\.7 KiB are free in .*UNIFYLENS_HOME"
    with pytest.raises(OSError, match=told) as full:
        ul.sweep(tiny(), over={"seed": range(9)}, progress=False)
    assert full.value.errno == errno.ENOSPC and str(empty_store) in str(full.value) and not stacked


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, "no space left on device")


def test_progress_that_cannot_be_saved_is_told_once_and_training_goes_on(monkeypatch, trained, empty_store):
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(Progress, "save", no_space)
    with pytest.warns(UserWarning, match="could not be saved in .*no space left.*training goes on") as caught:
        run, *_ = quietly(tiny(), tiny(**{"model.d_model": 8}))
    assert len(caught) == 1 and str(empty_store) in str(caught[0].message)
    assert_equal_runs(run, trained)


def test_a_run_that_cannot_be_saved_keeps_the_others_and_its_progress(monkeypatch, press_ctrl_c, empty_store, trained):
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    first, second = tiny(**{"model.d_model": 32}), tiny()
    save = store.save
    with monkeypatch.context() as patch:
        patch.setattr(store, "save", lambda e, *content: (no_space if e == second else save)(e, *content))
        patch.setattr(Progress, "remove", lambda self: None)
        with pytest.raises(OSError, match=r"\(seed 0\) could not be saved in .*no space left.* goes on from") as full:
            quietly(first, second)
    assert full.value.errno == errno.ENOSPC and str(empty_store) in str(full.value)
    assert store.load(first) and not store.load(second)
    press_ctrl_c.steps.clear()
    assert_equal_runs(quietly(first, second)[1], trained)
    assert not press_ctrl_c.steps, "it was saved at its last step"


def test_progress_makes_room_for_the_runs_it_led_to(monkeypatch, empty_store, trained):
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    save, progress = store.save, empty_store / "interrupted"

    def save_if_there_is_room(*content):
        return no_space() if list(progress.glob("*.safetensors")) else save(*content)

    monkeypatch.setattr(store, "save", save_if_there_is_room)
    assert_equal_runs(quietly(tiny())[0], trained)


@pytest.mark.parametrize("reason", ["too small", "on another disk"])
def test_progress_that_makes_no_room_is_kept(monkeypatch, reason):
    monkeypatch.setattr(trainer, "SECONDS_BETWEEN_SAVES", 0.0)
    (result,), progress, lstat = train_stack([tiny()]), Progress([tiny()]), Path.lstat
    store.refuse_unwritable()
    monkeypatch.setattr(store, "save", no_space)
    free = -(10**9) if reason == "too small" else 10**9
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(0, 0, free))
    if reason != "too small":
        monkeypatch.setattr(Path, "lstat", lambda self: os.stat_result([*lstat(self)[:2], -1, *lstat(self)[3:]]))
    with pytest.raises(OSError, match="could not be saved"):
        schedule._save_one(result, progress)
    assert progress.path.exists()


@pytest.mark.parametrize("full", ["runs", "interrupted"])
def test_the_disks_that_are_asked_for_room_are_those_that_are_written(monkeypatch, empty_store, tmp_path, full):
    """The home's own may be full; `runs` and `interrupted` may be links to larger ones."""
    empty_store.mkdir()
    for name in ("runs", "interrupted"):
        (tmp_path / name).mkdir()
        (empty_store / name).symlink_to(tmp_path / name)
    usage = {empty_store / "runs": 10**9, empty_store / "interrupted": 10**9}
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Disk(0, 0, usage.get(Path(folder), 0)))
    quietly(tiny())
    usage[empty_store / full] = 10
    with pytest.raises(OSError, match=f"are free in {empty_store}/{full}"):
        quietly(tiny(seed=1))


def test_results_do_not_need_a_store(tmp_path, monkeypatch, trained):
    monkeypatch.setenv("UNIFYLENS_HOME", str(tmp_path / "a worker's"))
    (result,) = train_stack([tiny()])
    assert result.experiment == tiny() and result.diverged_at is None
    assert list(result.checkpoints) == trained.steps
    for step, state in result.checkpoints.items():
        expected = weights(trained, step)
        assert all(torch.equal(p, expected[name]) for name, p in state.items())
    assert not Path(tmp_path / "a worker's").exists()


def test_labels_that_are_measurements_are_refused():
    runs = ul.train_design([({"transfer": "early"}, tiny()), ({"transfer": "late"}, tiny(seed=1))], progress=False)
    with pytest.raises(ValueError, match="the setting 'transfer' has the name of a measurement"):
        _ = runs.final
    with pytest.raises(ValueError, match="the table has a column 'transfer'"):
        runs.measure(lambda run: run.history[["transfer"]], progress=False)

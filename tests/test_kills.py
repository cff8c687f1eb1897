"""Several processes on one store, and processes that are killed: each run is trained, whole, and the right one."""

import errno
import fcntl
import os
import random
import signal
import time
from concurrent.futures import BrokenExecutor

import filelock
import joblib
import pytest
import torch
from conftest import assert_equal_runs, quietly, tiny
from joblib.externals.loky import reusable_executor
from tqdm.auto import tqdm

import unifylens as ul
from benchmarks import kills
from unifylens.training import schedule, store, trainer
from unifylens.training.progress import Progress
from unifylens.training.run import HISTORY, Run

# --- one store, two processes --------------------------------------------------------------------------------


@pytest.fixture
def other():
    """What another process holds that trains the same experiment."""
    held = Progress([tiny()])
    assert held.claim()
    yield held
    held.release()


def at_the_first_look(monkeypatch, act):
    """While it is waited for the other process, this happens once."""
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            act()
        assert len(looks) < 5

    monkeypatch.setattr(schedule.time, "sleep", sleep)
    return looks


def save_as(run):
    """Another process saves a run."""
    weights = {step: run.parameters(step) for step in run.steps}
    return store.save(run.experiment, run.history, weights, run.diverged_at)


def test_one_process_at_a_time_trains_a_stack(other):
    again = Progress([tiny()])
    assert not again.claim() and Progress([tiny(), tiny(seed=1)]).claim()
    other.release()
    assert again.claim() and not other.claim()
    again.release()
    assert not again.lock_path.exists()


def test_what_another_process_trains_is_waited_for_and_read(other, trained, monkeypatch, press_ctrl_c, capsys):
    looks = at_the_first_look(monkeypatch, lambda: (save_as(trained), other.release()))
    own, others = tiny(**{"model.d_model": 8}), tiny()
    for run, experiment in zip(quietly(others, own), (others, own), strict=True):
        assert run.experiment == experiment
    assert_equal_runs(store.load(others), trained)
    assert {width for width, _ in press_ctrl_c.steps} == {8} and len(looks) == 1
    told = capsys.readouterr().err
    assert told.count("another process, or thread of this one, trains") == 1 and str(other.lock_path) in told


def test_what_another_process_leaves_is_gone_on_with(other, trained, monkeypatch, press_ctrl_c):
    other.release()
    press_ctrl_c.at = (16, 17)
    with pytest.raises(KeyboardInterrupt):
        quietly(tiny())
    press_ctrl_c.at = None
    press_ctrl_c.steps.clear()
    assert other.claim()
    at_the_first_look(monkeypatch, other.release)
    assert_equal_runs(quietly(tiny())[0], trained)
    assert press_ctrl_c.steps == [(16, step) for step in range(18, 40)]


def test_waiting_ends_with_ctrl_c(other, monkeypatch, press_ctrl_c):
    at_the_first_look(monkeypatch, lambda: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="the same call goes on from there"):
        quietly(tiny())
    assert not press_ctrl_c.steps


def test_what_another_process_saved_damaged_is_trained(other, trained, monkeypatch):
    def save_damaged():
        (save_as(trained).folder / HISTORY).write_bytes(b"")
        other.release()

    at_the_first_look(monkeypatch, save_damaged)
    with pytest.warns(UserWarning, match="is damaged"):
        assert_equal_runs(quietly(tiny())[0], trained)


def test_a_killed_process_holds_nothing(trained):
    child = os.fork()
    if child == 0:
        Progress([tiny()]).claim()
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert Progress([tiny()]).lock_path.exists()
    assert_equal_runs(quietly(tiny())[0], trained)
    assert not Progress([tiny()]).lock_path.exists()


def test_a_child_of_the_process_holds_nothing_after_it(other):
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    try:
        other.release()
        assert Progress([tiny()]).claim()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told_once_and_used(number, trained, monkeypatch, capsys):
    def fail(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", fail)
    left = Progress([tiny()]).lock_path
    left.parent.mkdir(parents=True)
    left.write_text("123\nanother host\n")  # as of a process that died there
    assert_equal_runs(quietly(tiny(), tiny(**{"model.d_model": 8}))[0], trained)
    assert capsys.readouterr().err.count("has no locks") == 1


def test_a_lock_of_another_user_is_told_as_such_and_the_work_done(trained, monkeypatch, capsys):
    def fail(self, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    assert_equal_runs(quietly(tiny())[0], trained)
    told = capsys.readouterr().err
    assert f"{Progress([tiny()]).lock_path} is another user's" in told and "no locks" not in told


@pytest.mark.parametrize(("rights", "expected"), [(0o755, 0o644), (0o2775, 0o664), (0o700, 0o600)])
def test_who_may_write_beside_a_lock_may_lock_it(rights, expected):
    saved = Progress([tiny()])
    saved.path.parent.mkdir(parents=True)
    saved.path.parent.chmod(rights)
    assert saved.claim() and saved.lock_path.stat().st_mode & 0o777 == expected
    saved.release()


def test_runs_cleared_as_soon_as_they_are_saved_do_not_end_the_sweep(monkeypatch):
    save = store.save

    def save_and_lose(experiment, *content):
        run = save(experiment, *content)
        if experiment.seed == 0:
            store.clear(run)
        return run

    monkeypatch.setattr(store, "save", save_and_lose)
    ul.sweep(tiny(), over={"seed": range(2)}, stack_size=1, progress=False)
    assert store.runs()["seed"].tolist() == [1]


def test_a_folder_at_the_place_of_progress_ends_nothing_and_stays(monkeypatch, trained):
    saved, advance = Progress([tiny()]), trainer._Stack.advance

    def put_folder(self):
        saved.path.mkdir(exist_ok=True)
        (saved.path / "mine.txt").write_text("mine")
        advance(self)

    monkeypatch.setattr(trainer._Stack, "advance", put_folder)
    assert_equal_runs(quietly(tiny())[0], trained)
    assert (saved.path / "mine.txt").read_text() == "mine" and not saved.lock_path.exists()


def test_a_refusal_leaves_nothing_locked(empty_store, monkeypatch):
    monkeypatch.setattr(trainer._Stack, "advance", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        quietly(tiny())
    assert Progress([tiny()]).claim()


# --- workers that die ----------------------------------------------------------------------------------------


@pytest.fixture
def pool(monkeypatch):
    """Workers, of which one dies after so many stacks of each round."""
    rounds, after = [], []

    def results(tasks, workers):
        rounds.append(0)
        for function, arguments, options in tasks:
            if rounds[-1] == after[min(len(rounds), len(after)) - 1]:
                raise BrokenExecutor("a worker was killed")
            rounds[-1] += 1
            yield function(*arguments, **options)

    monkeypatch.setattr(schedule, "_results", results)
    return rounds, after


def test_what_a_dead_worker_leaves_is_sent_again_and_what_arrived_is_kept(pool, trained):
    rounds, after = pool
    after[:] = [1, 0, 0, 2, 9]
    runs = ul.sweep(tiny(), over={"seed": range(5)}, stack_size=1, progress=False)
    assert [run.experiment.seed for run in runs] == list(range(5)) and rounds == [1, 0, 0, 2, 2]
    assert_equal_runs(runs[0], trained)


def test_workers_that_die_again_and_again_end_the_sweep_in_words(pool):
    rounds, after = pool
    after[:] = [1, 0]
    told = r"worker processes were killed 4 times, .* memory ran out: .* 1 of 3 models are saved; the same call goes on"
    with pytest.raises(RuntimeError, match=told):
        ul.sweep(tiny(), over={"seed": range(3)}, stack_size=1, progress=False)
    assert len(rounds) == schedule.MOST_LOSSES and len([seed for seed in range(3) if store.load(tiny(seed=seed))]) == 1
    after[:] = [9]
    assert len(ul.sweep(tiny(), over={"seed": range(3)}, stack_size=1, progress=False)) == 3


def test_a_killed_loky_worker_does_not_end_the_sweep(monkeypatch, trained, workers_are_forked):
    save, killed = store.save, []

    def kill_one(*content) -> Run:
        if not killed:
            killed.append(next(iter(reusable_executor._executor._processes)))
            os.kill(killed[0], signal.SIGKILL)
        return save(*content)

    monkeypatch.setattr(store, "save", kill_one)
    with joblib.parallel_config("loky", n_jobs=2):
        runs = ul.sweep(tiny(), over={"seed": range(6)}, stack_size=1, progress=False)
    assert killed and [run.experiment.seed for run in runs] == list(range(6))
    assert_equal_runs(runs[0], trained)


# --- few of what `benchmarks/kills.py` does many times --------------------------------------------------------


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(kills, "SEEDS", 3)
    with tqdm(disable=True) as bar:
        yield random.Random(1), bar


def test_killed_sweeps_lose_and_mix_nothing(benchmark, tmp_path):
    counts = kills.kill_sweeps(4, tmp_path, *benchmark)
    assert counts["kills"] >= 4 and counts["pairs"] and counts["runs"]
    assert not any(counts[name] for name in ("mixed", "lost", "damaged", "failed", "stuck", "left behind"))


def test_no_damage_is_used(benchmark, tmp_path):
    counts = kills.damage_runs(60, tmp_path, *benchmark)
    assert counts["used"] == counts["failed"] == 0 and counts["told"] > 50


def test_the_benchmark_sees_what_is_mixed_lost_and_used(benchmark, tmp_path):
    """A check that cannot fail would be none."""
    with kills.at(tmp_path / "one"):
        runs = ul.sweep(kills.experiment(), over={"seed": range(3)}, stack_size=1, progress=False)
    watch = kills.Watch(tmp_path / "one")
    watch.expected[1] |= {"diverged_at": 7}
    assert watch.look(tmp_path / "one", {0, 1, 2}) == {0, 1, 2} and watch.counts["mixed"] == 1
    assert watch.look(tmp_path / "none", {0, 1}) == set() and watch.counts["lost"] == 2
    content = kills.content(runs[0])
    assert kills.judge([lambda: content], content, kills.same) == "harmless"
    assert kills.judge([lambda: content | {"seed": 5}], content, kills.same) == "used"
    changed = content | {"12/unembed.W_U": torch.zeros_like(content["12/unembed.W_U"])}
    assert kills.judge([lambda: None, lambda: changed], content, kills.same) == "used"

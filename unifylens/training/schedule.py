"""Stacks on their way: sent to workers, shown in one bar, interrupted, saved."""

from __future__ import annotations

import errno
import heapq
import os
import pickle
import secrets
import shutil
import signal
import stat
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor
from contextlib import closing, contextmanager, nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import Any

import joblib
from joblib.parallel import get_active_backend
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from unifylens import environment
from unifylens.config import Experiment
from unifylens.hardware import size_text
from unifylens.training import disk, store
from unifylens.training.plan import StackPlan
from unifylens.training.progress import Progress
from unifylens.training.progress import folder as progress_folder
from unifylens.training.run import Run
from unifylens.training.trainer import Monitor, Result, mean_of_last, train_stack
from unifylens.training.workers import Workers

SECONDS_BETWEEN_LOOKS = 0.5
"""While another process trains what is left."""

MOST_LOSSES = 4
"""Worker processes that may die, one after the other, without a stack having been finished in between."""

BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def refuse_a_full_disk(stacks: list[StackPlan], workers: Workers) -> None:
    """Raise OSError if what training will write is more than the store's disk has left."""
    members = [member for stack in stacks for member in stack.members]
    runs = sum(member.run_bytes for member in members)
    under_way = sum(heapq.nlargest(workers.count, (sum(m.progress_bytes for m in s.members) for s in stacks)))
    needed: dict[int, int] = {}
    for folder, size in ((environment.home() / "runs", runs), (progress_folder(), under_way)):
        place = next(place for place in (folder, *folder.parents) if place.exists())
        needed[place.stat().st_dev] = total = needed.get(place.stat().st_dev, 0) + size
        free = shutil.disk_usage(place).free
        if total > free:
            raise OSError(
                errno.ENOSPC,
                f"training {len(members)} models writes about {size_text(runs + under_way)} ({size_text(runs)} of "
                f"runs, {size_text(under_way)} while stacks are under way); {size_text(free)} are free in {folder}. "
                "Make space there, or set UNIFYLENS_HOME to a folder on a larger disk",
            )


class _Interrupt:
    """Turns the first Ctrl-C into a flag, so that training stops between two steps; a second one stops at once."""

    def __init__(self) -> None:
        self.requested = False
        self.stopped: list[str] = []
        """Where each stack under way was stopped."""

    def _handle(self, *_: object) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen where signals can be heard: in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.signal(signal.SIGINT, self._handle)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


class _Bar:
    """One bar for all stacks, weighed by their arithmetic, so that the time left is right where shapes are mixed."""

    def __init__(self, stacks: list[StackPlan], progress: bool) -> None:
        self.n_models = sum(len(stack.members) for stack in stacks)
        self.done = 0
        self.told_of_a_problem = False
        self._means: dict[str, float] = {}
        self.bar = tqdm(
            total=sum(stack.flops * stack.steps for stack in stacks),
            desc=f"training {self.n_models} models",
            bar_format=BAR,
            smoothing=0,  # the mean speed so far: that of the last moment depends on the stack that was heard of
            disable=not progress,
        )
        self.show()

    def advance(self, flops: int, resumed: bool = False) -> None:
        """Some arithmetic was done, now or before an interruption."""
        with self.bar.get_lock():  # stacks in several threads share it
            if resumed and not self.bar.disable:
                self.bar.initial += flops  # tells nothing of the speed
            self.bar.update(flops)

    def finish(self, stack: StackPlan, ends: Sequence[Mapping[str, float]], advance: bool = True) -> None:
        """A stack's runs, which ended like this, are saved; some arithmetic was not heard of while it was done."""
        self.show(mean_of_last(ends), done=len(ends))
        if advance:
            self.advance(stack.flops * stack.steps)

    def show(self, means: Mapping[str, float] | None = None, done: int = 0) -> None:
        """Show the means of the stack heard of last, and how many models are done."""
        self.done += done
        self._means = dict(means or self._means)
        parts = [f"{self.done}/{self.n_models} models", *(f"{name}={v:.2f}" for name, v in self._means.items())]
        self.bar.set_postfix_str(", ".join(parts), refresh=done > 0)


class _SharedMonitor(Monitor):
    """Of a stack in a thread of this process."""

    def __init__(self, bar: _Bar, interrupt: _Interrupt, flops: int) -> None:
        self._bar, self._interrupt, self._flops = bar, interrupt, flops

    @property
    def stop_requested(self) -> bool:
        return self._interrupt.requested

    def advanced(self, steps: int, resumed: bool = False) -> None:
        self._bar.advance(steps * self._flops, resumed)

    def evaluated(self, summary: Mapping[str, float]) -> None:
        self._bar.show(summary)

    def stopped(self, where: str) -> None:
        self._interrupt.stopped.append(where)

    def not_saved(self, problem: str) -> None:
        if not self._bar.told_of_a_problem:  # all stacks write to the same disk
            self._bar.told_of_a_problem = True
            super().not_saved(problem)


class _Claims:
    """Which stacks this process trains: those that no other process trains, as workers become free."""

    def __init__(self, stacks: Iterable[StackPlan], interrupt: _Interrupt) -> None:
        self.left = list(stacks)
        self._interrupt = interrupt
        self._held: dict[Experiment, tuple[StackPlan, Progress]] = {}
        self._told = False

    def take(self) -> Iterator[StackPlan]:
        """Claim one stack after the other. It never raises: joblib asks for the next one in threads of its own."""
        for stack in list(self.left):
            if self._interrupt.requested:
                return
            if all(os.path.exists(folder) for folder in map(store.folder_of, stack.experiments)):
                continue  # by another process, since it was looked for
            progress = Progress(stack.experiments)
            try:
                if not progress.claim():
                    continue
            except PermissionError as error:
                self._tell(
                    f"{progress.lock_path} is another user's and cannot be opened ({error.strerror}): if they train "
                    "the same models now, the work is done twice"
                )
            except OSError as error:
                self._tell(
                    f"{progress.lock_path.parent} has no locks ({error}): processes that train the same models at once "
                    "do the work twice"
                )
            self._held[stack.experiments[0]] = stack, progress
            self.left.remove(stack)
            yield stack

    def saved_by_others(self) -> Iterator[tuple[StackPlan, list[Run]]]:
        """Stacks of which another process has saved all runs by now."""
        for stack in list(self.left):
            if all(os.path.exists(folder) for folder in map(store.folder_of, stack.experiments)):
                runs = [run for run in map(store.load, stack.experiments) if run]
                if len(runs) == len(stack.members):
                    self.left.remove(stack)
                    yield stack, runs

    def done(self, first: Experiment) -> StackPlan:
        """The runs of the stack that begins with an experiment are saved."""
        stack, progress = self._held.pop(first)
        try:
            progress.remove()
        finally:
            progress.release()
        return stack

    def give_back(self) -> int:
        """Those that were not finished are to be claimed again, after the others; how many."""
        for stack, progress in (held := list(self._held.values())):
            progress.release()
            self.left.append(stack)
        self._held.clear()
        return len(held)

    def wait(self) -> None:
        """Wait a moment for other processes."""
        first = self.left[0]
        self._tell(
            f"another process, or thread of this one, trains {len(first.members)} or more of the models that are asked "
            f"for (it has locked {Progress(first.experiments).lock_path}); waiting for it. Ctrl-C ends the waiting"
        )
        time.sleep(SECONDS_BETWEEN_LOOKS)

    def _tell(self, text: str) -> None:
        if not self._told:
            self._told = True
            tqdm.write(text, file=sys.stderr)


def train_stacks(stacks: list[StackPlan], workers: Workers, progress: bool) -> Iterator[Run]:
    """Train on the workers and save what arrives; what another process trains is waited for."""
    interrupt, failure, losses = _Interrupt(), None, 0
    bar, claims = _Bar(stacks, progress), _Claims(stacks, interrupt)
    with (
        bar.bar,
        interrupt.listening() if workers.shared else nullcontext(),
        # for all threads of this process: each stack sets it too, but would set it back under the others
        threadpool_limits(1, user_api="blas") if workers.shared else nullcontext(),
        _filling_gaps_of_dask(),
    ):
        try:
            while claims.left and not interrupt.requested:
                for stack, runs in claims.saved_by_others():
                    bar.finish(stack, [run.ending() for run in runs])
                    yield from runs
                taken = claims.take()
                if (first := next(taken, None)) is None:
                    if claims.left and not interrupt.requested:
                        claims.wait()
                    continue
                try:
                    with _folder_of_results(workers) as folder:
                        tasks = _tasks(chain([first], taken), workers, bar, interrupt, folder)
                        with closing(_results(tasks, workers)) as arriving:
                            for results in map(_received, arriving):
                                if not results:  # stopped
                                    continue
                                losses = 0
                                try:
                                    runs = _save(results)
                                except OSError as error:
                                    if not workers.shared:
                                        raise
                                    # stacks under way are saved where they are
                                    interrupt.requested, failure = True, failure or error
                                    continue
                                stack = claims.done(results[0].experiment)
                                ends = [result.history.iloc[-1] for result in results]  # the runs may be cleared by now
                                bar.finish(stack, ends, advance=not workers.shared)
                                yield from runs
                except BrokenExecutor as error:
                    lost, losses = claims.give_back(), losses + 1
                    if losses == MOST_LOSSES:
                        raise RuntimeError(
                            f"worker processes were killed {losses} times, with {lost} stacks under way and none "
                            "finished in between; most often memory ran out: train fewer stacks at a time (n_jobs) or "
                            f"smaller ones (stack_size). {bar.done} of {bar.n_models} models are saved; the same call "
                            "goes on from there"
                        ) from error
        except KeyboardInterrupt:
            interrupt.requested = True
            if workers.shared:
                raise
            message = f"stopped with {bar.done} of {bar.n_models} models saved; the same call goes on from there"
            raise KeyboardInterrupt(message) from None
        except BaseException:
            interrupt.requested = True  # threads would train on behind the error's back
            raise
        finally:
            claims.give_back()
    if failure:
        raise failure
    if interrupt.requested:
        where = (interrupt.stopped or ["between two stacks"])[0]
        raise KeyboardInterrupt(f"stopped {where}; the same call goes on from there")


def _tasks(
    stacks: Iterable[StackPlan], workers: Workers, bar: _Bar, interrupt: _Interrupt, folder: Path | None
) -> Iterator[Any]:
    """What joblib is to run, made when it asks."""
    for stack in stacks:
        if folder:
            yield joblib.delayed(_train_in_process)(stack.experiments, workers.threads, folder)
        else:
            monitor = _SharedMonitor(bar, interrupt, stack.flops) if workers.shared else None
            yield joblib.delayed(train_stack)(stack.experiments, monitor, workers.threads)


@contextmanager
def _folder_of_results(workers: Workers) -> Iterator[Path | None]:
    """Where worker processes of this machine put what they trained; None for others, which have no pipe to us.

    A pipe takes up to `PIPE_BUF` bytes at once or not at all. Of more, a process that is killed may have sent a part,
    and the executor would wait for the rest for ever.
    """
    if workers.here and not workers.shared:
        with disk.scratch_folder(progress_folder() / "results") as folder:
            folder.chmod(0o700)  # what is read from there runs as code
            yield folder
    else:
        yield None


def _train_in_process(experiments: list[Experiment], threads: int, folder: Path) -> Path | list[Result]:
    """Train a stack and write its results to a new file of the folder."""
    results = train_stack(experiments, threads=threads)
    path = folder / f"results-{secrets.token_hex(8)}.pickle"
    try:
        with path.open("wb") as file:
            pickle.dump(results, file, protocol=pickle.HIGHEST_PROTOCOL)
    except OSError:  # as on a full disk, where saving them may make room, and says what is wrong
        path.unlink(missing_ok=True)
        return results
    return path


def _received(results: Path | list[Result]) -> list[Result]:
    """The results of a stack, read from the file in which a worker process put them, if it did."""
    if not isinstance(results, Path):
        return results
    with results.open("rb") as file:
        content = pickle.load(file)
    results.unlink()  # room for the runs
    return content


@contextmanager
def _filling_gaps_of_dask() -> Iterator[None]:
    """Let joblib's dask backend say that the cluster gave a task up, and take back tasks when it is interrupted.

    Without, it would wait for ever in the first case, and the cluster train on for nobody in the second.
    """
    backend, _ = get_active_backend(prefer="threads")
    if not hasattr(backend, "client"):
        yield
        return
    submit = backend.submit

    def submit_and_hear(function: Callable, callback: Callable) -> Any:
        future = submit(function, callback)
        future.add_done_callback(lambda done: callback(done.exception()) if done.exception() else None)
        return future

    backend.submit = submit_and_hear
    try:
        yield
    finally:
        del backend.submit
        if left := list(getattr(backend, "_results", {})):
            backend.client.cancel(left, force=True)


def _results(tasks: Iterator[Any], workers: Workers) -> Generator[list[Result] | Path, None, None]:
    """Results of stacks in the order in which they are finished."""
    # tasks are taken as they are needed, as each is locked from then on; a cluster may grow
    ahead = workers.count if workers.shared else 2 * workers.count if workers.here else max(128, 2 * workers.count)
    # one stack a task: joblib would put several into one to save messages, and then lose more with a worker
    options: dict[str, Any] = {"n_jobs": workers.count, "prefer": "threads", "batch_size": 1, "pre_dispatch": ahead}
    if not workers.streams:  # such a backend gives results when all are there: ask for a few at a time
        with joblib.Parallel(**options) as parallel:
            while some := list(islice(tasks, workers.count)):
                yield from parallel(some)
        return
    arriving = joblib.Parallel(return_as="generator_unordered", **options)(tasks)
    try:
        for results in arriving:  # noqa: UP028 - `yield from` would close it before the warning below is silenced
            yield results
    finally:
        with warnings.catch_warnings():  # joblib warns of tasks that were not waited for
            warnings.filterwarnings("ignore", category=UserWarning, module="joblib")
            arriving.close()


def _save(results: list[Result]) -> list[Run]:
    """Put a stack into the store; members that diverged are named in a warning."""
    progress = Progress([result.experiment for result in results])
    runs = [_save_one(result, progress) for result in results]
    for result in results:
        if result.diverged_at is not None:
            warnings.warn(
                f"a run (seed {result.experiment.seed}) diverged at step {result.diverged_at}: "
                "its loss or its states are not finite",
                stacklevel=2,
            )
    return runs


def _save_one(result: Result, progress: Progress) -> Run:
    content = (result.experiment, result.history, result.checkpoints, result.diverged_at)
    try:
        try:
            return store.save(*content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not _makes_room(progress, result):
                raise
            progress.remove()  # larger than the stack's runs, and of no use once they are saved
            return store.save(*content)
    except OSError as error:
        remedy = "Make space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Look at that folder"
        raise OSError(
            error.errno or errno.EIO,
            f"a trained model (seed {result.experiment.seed}) could not be saved in {environment.home()}: {error}. "
            f"What was saved before is kept, and the same call goes on from there. {remedy}, or set "
            "UNIFYLENS_HOME to another one",
        ) from error


def _makes_room(progress: Progress, result: Result) -> bool:
    """Whether a run has room once the progress that led to it is removed."""
    runs = environment.home() / "runs"
    try:
        status = progress.path.lstat()
        free = shutil.disk_usage(runs).free
        if not stat.S_ISREG(status.st_mode) or status.st_dev != runs.stat().st_dev:
            return False
    except OSError:
        return False
    tensors = (tensor for checkpoint in result.checkpoints.values() for tensor in checkpoint.values())
    return status.st_size + free > sum(tensor.nbytes for tensor in tensors)

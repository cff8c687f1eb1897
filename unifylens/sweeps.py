"""Many experiments: how they are grouped into stacks, scheduled over workers, shown and saved.

It knows nothing of how a step is computed: a stack is trained by `train.train_stack`, here, in another process, or
on another machine.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import joblib
import pandas as pd
import torch
from joblib.parallel import get_active_backend
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from unifylens import memory, paths, store
from unifylens.config import Experiment
from unifylens.interventions import build_corpus
from unifylens.model import n_parameters
from unifylens.store import Run
from unifylens.train import Monitor, Result, device, mean_of_last, train_stack

STACK_SIZE = 16
"""Most members of a stack on a CPU, unless asked for: more gain little there."""
STACK_SIZE_ON_GPU = 1024
STACKS_PER_WORKER = 4
"""At least so many where stacks are seen only when they are finished, so that progress shows and workers end alike."""
SHARE_OF_FREE_MEMORY = 0.8
BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"


def train(experiment: Experiment, *, progress: bool = True) -> Run:
    """Train one model, or read it from the store. Raises what `train_many` raises."""
    return train_many([experiment], progress=progress)[0]


def sweep(
    experiment: Experiment,
    over: Mapping[str, Iterable[Any]],
    *,
    stack_size: int | None = None,
    progress: bool = True,
) -> Sweep:
    """Train every combination of some settings: `over={"corpus.parallel": [0, 0.3], "seed": range(5)}`.

    Raises ValueError for a name that is not a setting, a value that is not allowed, or no values; and what
    `train_many` raises.
    """
    for name, options in over.items():
        if isinstance(options, str) or not isinstance(options, Iterable):
            raise ValueError(f"over[{name!r}]={options!r} is one value; allowed: a list or a range of values.")
    values = {name: list(vs) for name, vs in over.items()}
    for name, options in values.items():
        if not options:
            raise ValueError(f"over[{name!r}] is empty; allowed: at least one value.")
    dials = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    design = [(dial, experiment.replace(**dial)) for dial in dials]
    return train_design(design, stack_size=stack_size, progress=progress)


def train_design(
    design: Sequence[tuple[dict[str, Any], Experiment]], *, stack_size: int | None = None, progress: bool = True
) -> Sweep:
    """Train labelled experiments that are no grid: `[({"condition": "early"}, experiment), ...]`.

    Raises what `train_many` raises.
    """
    runs = train_many([e for _, e in design], stack_size=stack_size, progress=progress)
    return Sweep(runs, [labels for labels, _ in design])


_NOTHING = object()


class Sweep(Sequence[Run]):
    """Runs in order, and the settings in which they differ."""

    def __init__(self, runs: list[Run], dials: list[dict[str, Any]]) -> None:
        """`dials[i]` are the settings of `runs[i]`."""
        self.runs = runs
        self.dials = dials

    def __getitem__(self, index):
        """One run by number."""
        return self.runs[index]

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.runs)

    def select(self, **labels: Any) -> Sweep:
        """The runs whose settings have these values. Raises ValueError if there is none."""
        chosen = [i for i, dial in enumerate(self.dials) if all(dial.get(k, _NOTHING) == v for k, v in labels.items())]
        if not chosen:
            raise ValueError(f"no run has {labels}; settings of the first run: {self.dials[0]}.")
        return Sweep([self.runs[i] for i in chosen], [self.dials[i] for i in chosen])

    @property
    def history(self) -> pd.DataFrame:
        """All histories, the settings in front."""
        return pd.concat(
            [
                pd.DataFrame({name: [value] * len(run.history) for name, value in dial.items()}).join(run.history)
                if dial
                else run.history
                for run, dial in zip(self.runs, self.dials, strict=True)
            ],
            ignore_index=True,
        )

    def measure(self, table: Callable[[Run], pd.DataFrame], *, progress: bool = True) -> pd.DataFrame:
        """What `table` makes of every run, stacked, the settings beside it: `runs.measure(lambda run: ...)`."""
        parts = zip(tqdm(self.runs, desc="measuring", unit="model", disable=not progress), self.dials, strict=True)
        return pd.concat([table(run).reset_index().assign(**dial) for run, dial in parts], ignore_index=True)

    @property
    def final(self) -> pd.DataFrame:
        """Last evaluation of every run (on all facts) and the step at which it diverged, the settings beside it."""
        rows = zip(self.runs, self.dials, strict=True)
        table = pd.DataFrame([{**run.final, "diverged_at": run.diverged_at, **dial} for run, dial in rows])
        return table.astype({"diverged_at": "Int64"})


def train_many(experiments: Sequence[Experiment], *, stack_size: int | None = None, progress: bool = True) -> list[Run]:
    """Train experiments, those of one shape together, and return their runs in order.

    Runs in the store are read. Stacks of `stack_size` models (None: what suits the machine) train on the workers of
    the active `joblib.parallel_config`, or one on each CPU core. An interruption keeps what is finished, and a stack
    under way goes on where it was.

    Raises ValueError for a `stack_size` that is no size or does not fit into memory, MemoryError if not even one
    model fits, OSError if the disk is too small or cannot be written, KeyboardInterrupt when interrupted.
    """
    if stack_size is not None and (not isinstance(stack_size, int) or isinstance(stack_size, bool) or stack_size < 1):
        raise ValueError(f"stack_size={stack_size!r}; allowed: a whole number from 1 on, or None to choose.")
    runs: dict[Experiment, Run | None] = {experiment: store.load(experiment) for experiment in experiments}
    missing = [_Member.of(experiment) for experiment, run in runs.items() if run is None]
    if missing:
        workers = _Workers.active()
        stacks, workers = _plan(missing, workers, stack_size)
        _refuse_a_full_disk(stacks, workers)
        for run in _train_stacks(stacks, workers, progress):
            runs[run.experiment] = run
    return [runs[experiment] for experiment in experiments]


# --- which models train together -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Member:
    """One experiment, and what its training takes."""

    experiment: Experiment
    key: tuple
    """What members of one stack must share: shape of parameters and batch, and the course of training."""
    bytes: int
    stack_bytes: int
    """Of memory: what it adds to a stack, and what its stack takes once."""
    run_bytes: int
    progress_bytes: int
    """Of the disk: once trained, and while under way."""
    flops: int
    """Of one step, roughly."""
    fields: tuple[str, ...]
    """Settings that its memory comes from."""

    @classmethod
    def of(cls, experiment: Experiment) -> _Member:
        corpus, config, model = build_corpus(experiment), experiment.train, experiment.model
        one_token = corpus.due.shape[2] == 1  # then the stack computes the same position in every row
        answers = tuple(corpus.answer_positions[:, 0, 0].tolist()) if one_token else None
        # stacked members may differ in these two, which are only factors of their own updates
        shared = config.model_copy(update={"lr": 1.0, "weight_decay": 0.0})
        numbers, n_checkpoints = n_parameters(model, corpus.d_vocab, corpus.n_ctx), len(config.checkpoint_steps())
        tokens = config.batch_size * (corpus.n_ctx - 1)
        asked = tokens if config.loss == "full" else config.batch_size
        block = model.d_model * (4 * model.d_model + 2 * model.d_mlp)
        return cls(
            experiment=experiment,
            key=(model, shared, corpus.d_vocab, tuple(corpus.sequences.shape), answers),
            bytes=memory.bytes_per_model(experiment, corpus, device()),
            stack_bytes=memory.bytes_per_stack(experiment, corpus, device()),
            run_bytes=n_checkpoints * numbers * memory.FLOAT + 2**16,
            progress_bytes=(3 + n_checkpoints) * numbers * memory.FLOAT,
            # a product forward, two backward; and the optimiser's pass over the parameters
            flops=6 * (tokens * model.n_layers * block + asked * model.d_model * corpus.d_vocab) + 20 * numbers,
            fields=tuple(memory.fields_that_decide(experiment, corpus)),
        )


@dataclass(frozen=True)
class _StackPlan:
    """Members that train together."""

    members: list[_Member]

    @property
    def experiments(self) -> list[Experiment]:
        return [member.experiment for member in self.members]

    @property
    def steps(self) -> int:
        return self.members[0].experiment.train.steps

    @property
    def flops(self) -> int:
        """Of one step of all members."""
        return sum(member.flops for member in self.members)


def _plan(members: list[_Member], workers: _Workers, stack_size: int | None) -> tuple[list[_StackPlan], _Workers]:
    """Stacks, costliest first, and as many of the workers as they can use at the same time."""
    groups: dict[tuple, list[_Member]] = {}
    for member in members:
        groups.setdefault(member.key, []).append(member)
    for group in groups.values():  # neighbours share optimiser settings where they can; the order is kept otherwise
        group.sort(key=lambda member: (member.experiment.train.lr, member.experiment.train.weight_decay))
    if stack_size is None:
        workers = workers.that_fit(members)
    else:
        _refuse_what_does_not_fit(list(groups.values()), workers, stack_size)
    largest = {key: stack_size or workers.largest_stack(group) for key, group in groups.items()}
    stacks = _stacks_under_way(members, largest)
    taken = {experiment for stack in stacks for experiment in stack.experiments}
    left = {key: [m for m in group if m.experiment not in taken] for key, group in groups.items()}
    total = sum(member.flops * member.experiment.train.steps for group in left.values() for member in group)
    for key, group in left.items():
        if not group:
            continue
        size = stack_size
        if size is None:
            work = sum(member.flops * member.experiment.train.steps for member in group)
            size = _size_for_all_workers(len(group), largest[key], workers, work / total)
        stacks += [_StackPlan(group[i : i + size]) for i in range(0, len(group), size)]
    stacks.sort(key=lambda stack: -stack.flops * stack.steps)
    return stacks, workers.at_most(len(stacks))


def _size_for_all_workers(n_members: int, largest: int, workers: _Workers, share: float) -> int:
    """Nearly equal stacks, at most `largest`, and as many as keep every worker busy; `share` of all work is theirs."""
    if workers.shared:
        rounds = -(-n_members // (largest * workers.count))
        return -(-n_members // (rounds * workers.count))
    n_stacks = max(-(-n_members // largest), round(STACKS_PER_WORKER * workers.count * share), 1)
    return max(1, n_members // n_stacks)


def _stacks_under_way(members: list[_Member], largest: dict[tuple, int]) -> list[_StackPlan]:
    """Interrupted stacks whose members are all to be trained: they go on in the company in which they began."""
    by_key = {member.experiment.key(store.DATA_FORMAT): member for member in members}
    stacks = []
    for keys in store.stacks_under_way():
        stack = [by_key[key] for key in keys if key in by_key]
        if len(stack) == len(keys) and len({m.key for m in stack}) == 1 and len(stack) <= largest[stack[0].key]:
            stacks.append(_StackPlan(stack))
            for key in keys:
                del by_key[key]
    return stacks


def _refuse_what_does_not_fit(groups: list[list[_Member]], workers: _Workers, stack_size: int) -> None:
    """Raise ValueError, with what would fit, if stacks of this size do not."""
    if workers.memory is None:
        return

    def needed(size: int) -> tuple[int, int]:
        """Bytes of the largest stacks that train at the same time, and how many these are."""
        stacks: list[int] = []
        for group in groups:
            per_model, once = max(m.bytes for m in group), max(m.stack_bytes for m in group)
            full, rest = divmod(len(group), size)
            stacks += [once + size * per_model] * min(full, workers.count) + [once + rest * per_model] * (rest > 0)
        at_a_time = heapq.nlargest(workers.count, stacks)
        return sum(at_a_time), len(at_a_time)

    size, n_models = stack_size, max(map(len, groups))
    total, at_a_time = needed(size)
    if total <= workers.memory:
        return
    while size and needed(size)[0] > workers.memory:
        size = min(size, n_models) - 1
    if not size:
        workers.that_fit([member for group in groups for member in group])  # not even one: says so
    per_model = max(member.bytes for group in groups for member in group)
    allowed = f"1 to {size}, or None to choose" if size else "None, to train fewer stacks at a time"
    raise ValueError(
        f"stack_size={stack_size} needs about {_size(total)} ({_size(per_model)} a model, {at_a_time} "
        f"{'stack' if at_a_time == 1 else 'stacks'} at a time); {_size(workers.memory)} are free; allowed: {allowed}"
    )


def _size(n_bytes: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} GiB"


# --- where they train ----------------------------------------------------------------------------------------


def worker_count() -> int:
    """Stacks that train at the same time: one a CPU core, or one on a GPU, which a stack fills by itself."""
    return 1 if device().type == "cuda" else joblib.cpu_count()


@dataclass(frozen=True)
class _Workers:
    """Those of the active joblib backend."""

    count: int
    shared: bool
    """They are threads of this process, and share its bar and its Ctrl-C."""
    streams: bool
    """Results come one by one, not all at the end of a call."""
    here: bool
    """They are on this machine, so that there may be fewer of them."""
    memory: int | None
    """Bytes for all stacks that train at the same time; None if unknown."""

    @classmethod
    def active(cls) -> _Workers:
        backend, _ = get_active_backend(prefer="threads")  # threads, unless a backend was chosen
        _, n_jobs = get_active_backend()
        here = type(backend).__module__.startswith("joblib.") and not hasattr(backend, "client")
        if n_jobs is None:
            n_jobs = worker_count() if here else -1
        count = max(1, backend.effective_n_jobs(n_jobs))
        shared = getattr(backend, "uses_threads", False)
        if hasattr(backend, "client"):
            free = _memory_of_dask(backend.client, count)
        elif here:
            available = min(memory.free_bytes(d) for d in {torch.device("cpu"), device()})
            free = int(SHARE_OF_FREE_MEMORY * available) - (0 if shared else count * memory.PROCESS_BYTES)
        else:
            free = None
        return cls(count, shared, getattr(backend, "supports_return_generator", False), here, free)

    @property
    def threads(self) -> int:
        """Of torch in each: threads that share a step wait for each other, so many workers have one each."""
        return max(1, torch.get_num_threads() // self.count) if self.shared else 1

    def at_most(self, count: int) -> _Workers:
        """As many as there is work for."""
        return self._of(min(self.count, count)) if self.here else self

    def that_fit(self, members: list[_Member]) -> _Workers:
        """As many as can train one model each. Raises MemoryError if not even one can."""
        if self.memory is None:
            return self
        largest = max(members, key=lambda member: member.bytes + member.stack_bytes)
        needed = largest.bytes + largest.stack_bytes
        fewer = self._of(min(self.count, self.memory // needed)) if self.here else self
        if fewer.count < 1 or self.memory // fewer.count < needed:
            place = "are free" if self.here else "are free for each of the cluster's threads"
            raise MemoryError(
                f"one model (seed {largest.experiment.seed}) needs about {_size(needed)} of memory; "
                f"{_size(max(0, self.memory // max(1, fewer.count)))} {place}. "
                f"These settings decide: {', '.join(largest.fields)}."
            )
        return fewer

    def largest_stack(self, group: list[_Member]) -> int:
        """Most members of a stack."""
        most = STACK_SIZE if device().type == "cpu" else STACK_SIZE_ON_GPU
        if self.memory is None:
            return most
        per_model, once = max(m.bytes for m in group), max(m.stack_bytes for m in group)
        return max(1, min(most, (self.memory // self.count - once) // per_model))

    def _of(self, count: int) -> _Workers:
        return _Workers(count, self.shared, self.streams, self.here, self.memory)


def _memory_of_dask(client: Any, count: int) -> int | None:
    """Bytes for one stack on each of `count` threads, as much as the smallest worker has for a thread."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    each = [
        (SHARE_OF_FREE_MEMORY * worker["memory_limit"] - memory.PROCESS_BYTES) / worker["nthreads"]
        for worker in workers
        if worker["memory_limit"]
    ]
    return int(min(each) * count) if each else None


def _refuse_a_full_disk(stacks: list[_StackPlan], workers: _Workers) -> None:
    """Raise OSError if what training will write is more than the store's disk has left."""
    home = paths.home()
    disk = next(folder for folder in (home, *home.parents) if folder.exists())
    members = [member for stack in stacks for member in stack.members]
    runs = sum(member.run_bytes for member in members)
    under_way = sum(heapq.nlargest(workers.count, (sum(m.progress_bytes for m in s.members) for s in stacks)))
    free = shutil.disk_usage(disk).free
    if runs + under_way > free:
        raise OSError(
            errno.ENOSPC,
            f"training {len(members)} models writes about {_size(runs + under_way)} ({_size(runs)} of runs, "
            f"{_size(under_way)} while stacks are under way); {_size(free)} are free in {home}. "
            "Make space there, or set UNIFYLENS_HOME to a folder on a larger disk",
        )


# --- training ------------------------------------------------------------------------------------------------


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

    def __init__(self, stacks: list[_StackPlan], progress: bool) -> None:
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


def _train_stacks(stacks: list[_StackPlan], workers: _Workers, progress: bool) -> Iterator[Run]:
    """Train on the workers and save what arrives."""
    interrupt, failure = _Interrupt(), None
    bar = _Bar(stacks, progress)
    plan_of = {stack.experiments[0]: stack for stack in stacks}
    if workers.shared:
        monitors: list[Monitor | None] = [_SharedMonitor(bar, interrupt, stack.flops) for stack in stacks]
    else:
        monitors = [None] * len(stacks)
    tasks = [
        joblib.delayed(train_stack)(stack.experiments, monitor, workers.threads)
        for stack, monitor in zip(stacks, monitors, strict=True)
    ]
    with (
        bar.bar,
        interrupt.listening() if workers.shared else nullcontext(),
        # for all threads of this process: each stack sets it too, but would set it back under the others
        threadpool_limits(1, user_api="blas") if workers.shared else nullcontext(),
        _filling_gaps_of_dask(),
        closing(_results(tasks, workers)) as arriving,
    ):
        try:
            for results in arriving:
                if not results:  # stopped
                    continue
                try:
                    runs = _save(results)
                except OSError as error:
                    if not workers.shared:
                        raise
                    interrupt.requested, failure = True, failure or error  # stacks under way are saved where they are
                    continue
                bar.show(mean_of_last([run.final for run in runs]), done=len(runs))
                if not workers.shared:
                    plan = plan_of[results[0].experiment]
                    bar.advance(plan.flops * plan.steps)
                yield from runs
        except KeyboardInterrupt:
            interrupt.requested = True
            if workers.shared:
                raise
            message = f"stopped with {bar.done} of {bar.n_models} models saved; the same call goes on from there"
            raise KeyboardInterrupt(message) from None
        except BaseException:
            interrupt.requested = True  # threads would train on behind the error's back
            raise
    if failure:
        raise failure
    if interrupt.stopped:
        raise KeyboardInterrupt(f"stopped {interrupt.stopped[0]}; the same call goes on from there")


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


def _results(tasks: list, workers: _Workers) -> Iterator[list[Result]]:
    """Results of stacks in the order in which they are finished."""
    # one stack a task: joblib would put several into one to save messages, and then lose more with a worker
    options: dict[str, Any] = {"n_jobs": workers.count, "prefer": "threads", "batch_size": 1, "pre_dispatch": "all"}
    if not workers.streams:  # such a backend gives results when all are there: ask for a few at a time
        with joblib.Parallel(**options) as parallel:
            for start in range(0, len(tasks), workers.count):
                yield from parallel(tasks[start : start + workers.count])
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
    """Put a stack into the store and forget its progress; members that diverged are named in a warning."""
    progress = store.Progress([result.experiment for result in results])
    runs = [_save_one(result, progress) for result in results]
    progress.remove()
    for result in results:
        if result.diverged_at is not None:
            warnings.warn(
                f"a run (seed {result.experiment.seed}) diverged at step {result.diverged_at}: "
                "its loss or its states are not finite",
                stacklevel=2,
            )
    return runs


def _save_one(result: Result, progress: store.Progress) -> Run:
    content = (result.experiment, result.history, result.checkpoints, result.diverged_at)
    try:
        try:
            return store.save(*content)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not progress.path.exists():
                raise
            progress.remove()  # larger than the stack's runs, and of no use once they are saved
            return store.save(*content)
    except OSError as error:
        raise OSError(
            error.errno or errno.EIO,
            f"a trained model (seed {result.experiment.seed}) could not be saved in {paths.home()}: {error}. What was "
            "saved before is kept, and the same call goes on from there. Make space, or set UNIFYLENS_HOME to a "
            "folder on a larger disk",
        ) from error

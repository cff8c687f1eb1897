"""Optimisation: many models of one shape at once, with history, checkpoints, interruption and resumption."""

from __future__ import annotations

import ctypes
import itertools
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm.auto import tqdm

from unifylens import store
from unifylens.batches import Batches
from unifylens.config import Experiment
from unifylens.corpus import Corpus
from unifylens.evaluate import BATCH_ROWS, Questions
from unifylens.model import build_model
from unifylens.optimize import Graph, StackedAdamW
from unifylens.stack import Parameters, Stacked, network_of, stack_parameters, unstack
from unifylens.store import Run

STACK_SIZE = 16
"""Members of one stack: more gain little on a CPU and cost memory."""
SECONDS_BETWEEN_SAVES = 60.0
PART_SIZE = 4
"""Members that a step computes together on a CPU: what they need stays in its cache."""


def train(experiment: Experiment, *, progress: bool = True) -> Run:
    """Train one model, or read it from the store."""
    return train_many([experiment], progress=progress)[0]


def sweep(experiment: Experiment, over: Mapping[str, Iterable[Any]], *, progress: bool = True) -> Sweep:
    """Train every combination of some settings: `over={"corpus.parallel": [0, 0.3], "seed": range(5)}`.

    Raises ValueError for a name that is not a setting, a value that is not allowed, or no values.
    """
    for name, options in over.items():
        if isinstance(options, str) or not isinstance(options, Iterable):
            raise ValueError(f"over[{name!r}]={options!r} is one value; allowed: a list or a range of values.")
    values = {name: list(vs) for name, vs in over.items()}
    for name, options in values.items():
        if not options:
            raise ValueError(f"over[{name!r}] is empty; allowed: at least one value.")
    dials = [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]
    return train_design([(dial, experiment.replace(**dial)) for dial in dials], progress=progress)


def train_design(design: Sequence[tuple[dict[str, Any], Experiment]], *, progress: bool = True) -> Sweep:
    """Train labelled experiments that are no grid: `[({"condition": "early"}, experiment), ...]`."""
    return Sweep(train_many([e for _, e in design], progress=progress), [labels for labels, _ in design])


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
        """Last evaluation of every run (on all facts), the settings beside it."""
        return pd.DataFrame([{**run.final, **dial} for run, dial in zip(self.runs, self.dials, strict=True)])


def train_many(experiments: Sequence[Experiment], *, progress: bool = True) -> list[Run]:
    """Train experiments, those of one shape together, and return their runs in order.

    Runs in the store are read. An interruption keeps what is finished, and a stack under way goes on where it was.
    """
    runs: dict[Experiment, Run | None] = {experiment: store.load(experiment) for experiment in experiments}
    groups: dict[tuple, list[Experiment]] = {}
    for experiment in runs:
        if runs[experiment] is None:
            groups.setdefault(_shape(experiment), []).append(experiment)
    workers = worker_count()
    stacks = [stack for group in groups.values() for stack in _split(group, workers)]
    if not stacks:
        return [runs[experiment] for experiment in experiments]
    workers = min(workers, len(stacks))
    threads = max(1, torch.get_num_threads() // workers)
    total = sum(len(stack) * stack[0].train.steps for stack in stacks)
    interrupt = _Interrupt()
    with (
        tqdm(total=total, desc=f"training {sum(map(len, stacks))} models", unit="step", disable=not progress) as bar,
        interrupt.listening(),
        threadpool_limits(1, user_api="blas"),  # BLAS threads only wait for each other on matrices this small
    ):
        # one thread a stack: threads that share a step wait for each other, and badly so beside another busy process
        parallel = joblib.Parallel(n_jobs=workers, prefer="threads", return_as="generator_unordered")
        for finished in parallel(joblib.delayed(_train_stack)(stack, bar, interrupt, threads) for stack in stacks):
            runs |= {run.experiment: run for run in finished}
    if interrupt.stopped:
        raise KeyboardInterrupt(f"stopped {interrupt.stopped[0]}; the same call goes on from there")
    return [runs[experiment] for experiment in experiments]


def _split(group: list[Experiment], workers: int) -> list[list[Experiment]]:
    """Stacks of nearly equal size, at most `STACK_SIZE`, and as many as keep every worker busy."""
    rounds = -(-len(group) // (STACK_SIZE * workers))
    size = -(-len(group) // (rounds * workers))
    return [group[i : i + size] for i in range(0, len(group), size)]


def _shape(experiment: Experiment) -> tuple:
    """What members of one stack must share: shape of the parameters and of the batch, and the optimiser."""
    corpus = Corpus.build(experiment)
    answers = tuple(corpus.position("answer", template) for template in range(len(corpus.templates)))
    return (experiment.model, experiment.train, corpus.d_vocab, tuple(corpus.sequences.shape), answers)


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


def _train_stack(experiments: list[Experiment], bar: tqdm, interrupt: _Interrupt, threads: int) -> list[Run]:
    """Train one stack to its end, or until interrupted: then it is saved, and no run comes back."""
    if interrupt.requested:
        interrupt.stopped.append("before a stack began")
        return []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)  # of this worker
    try:
        trainer = _Stack(experiments)
        _advance_bar(bar, trainer.step * len(experiments))
        saved = time.monotonic()
        while True:
            if trainer.step in trainer.evaluation_steps and trainer.step not in trainer.evaluated:
                trainer.evaluate()
                bar.set_postfix(trainer.summary(), refresh=False)
            if trainer.step in trainer.checkpoint_steps and trainer.step not in trainer.checkpoints:
                trainer.checkpoint()
            if trainer.step == trainer.config.steps:
                break
            if interrupt.requested or time.monotonic() - saved > SECONDS_BETWEEN_SAVES:
                trainer.save()
                saved = time.monotonic()
            if interrupt.requested:
                interrupt.stopped.append(f"after step {trainer.step} of {trainer.config.steps}")
                return []
            trainer.advance()
            _advance_bar(bar, len(experiments))
        runs = trainer.finish()
    finally:
        torch.set_num_threads(before)
    if interrupt.requested:
        interrupt.stopped.append("after the last step of a stack")
    return runs


def _advance_bar(bar: tqdm, steps: int) -> None:
    with bar.get_lock():  # stacks in several threads share it
        bar.update(steps)


def device() -> torch.device:
    """Where models train: the GPU where torch sees one (hide it with `CUDA_VISIBLE_DEVICES=`), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def worker_count() -> int:
    """Stacks that train at the same time: one a CPU core, or one on a GPU, which a stack fills by itself."""
    return 1 if device().type == "cuda" else joblib.cpu_count()


def _keep_freed_memory() -> None:
    """Let glibc reuse large buffers: handing them back and forth costs a quarter of a step on a CPU."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc
        return
    trim_threshold, mmap_threshold, largest = -1, -3, 2**31 - 1
    mallopt(trim_threshold, largest)
    mallopt(mmap_threshold, largest)


class _Stack:
    """K models of one shape on their way."""

    def __init__(self, experiments: list[Experiment]) -> None:
        _keep_freed_memory()
        self.experiments = experiments
        self.config = experiments[0].train
        self.evaluation_steps = set(self.config.evaluation_steps())
        self.checkpoint_steps = set(self.config.checkpoint_steps())
        self.corpora = [Corpus.build(experiment) for experiment in experiments]
        self.sampled = [
            Questions.sample(corpus, self.config.eval_facts, e.seed)
            for e, corpus in zip(experiments, self.corpora, strict=True)
        ]
        self.device = device()
        self.batches = Batches(experiments, self.corpora, self.device)
        corpus = self.corpora[0]
        models = [build_model(e.model, corpus.d_vocab, corpus.n_ctx, e.seed) for e in experiments]
        self.parameters = stack_parameters(models, self.device)
        self.network = network_of(models[0].to(self.device, print_details=False), bfloat16=self.config.precision == "bfloat16")
        on_gpu = self.device.type == "cuda"
        self.optimizer = StackedAdamW(
            self.parameters, [e.train for e in experiments], len(experiments) if on_gpu else PART_SIZE
        )
        self.update = Graph(self._update) if on_gpu and isinstance(self.network, Stacked) else self._update
        self.step = 0
        self.loss_sum = torch.zeros(len(experiments), dtype=torch.float64, device=self.device)
        """Sum of every member's losses since the last evaluation, in nats per predicted token."""
        self.loss_steps = 0
        self.finite_steps = torch.zeros(len(experiments), dtype=torch.int64, device=self.device)
        """Steps before the first one whose loss was not finite; all steps taken where all were."""
        self.records: list[list[dict[str, float]]] = [[] for _ in experiments]
        self.checkpoints: dict[int, dict[str, Tensor]] = {}
        self.progress = store.Progress(experiments)
        self._resume()

    @property
    def evaluated(self) -> set[int]:
        """Steps that stand in the histories."""
        return {int(record["step"]) for record in self.records[0]}

    def advance(self) -> None:
        """One optimiser step of every member."""
        batch = self.batches[self.step]
        self.optimizer.set_rates(self.step)
        self.update(*batch)
        self.step += 1
        self.loss_steps += 1

    @torch.no_grad()
    def _update(self, tokens: Tensor, due: Tensor, at: Tensor | None = None) -> None:
        """Losses, gradients and AdamW, all in place and nothing read back, so that a CUDA graph can record it."""
        finite = self.finite_steps == self.finite_steps.max()
        for part in self.optimizer.parts:
            losses, gradients = self._gradients(part, tokens, due, at)
            self.optimizer.update(part, gradients)
            self.loss_sum[part] += losses
        self.finite_steps += self.loss_sum.isfinite() & finite

    def _gradients(self, part: slice, tokens: Tensor, due: Tensor, at: Tensor | None) -> tuple[Tensor, Parameters]:
        query = self.batches.query if at is None else at[part]
        own = self.optimizer.parameters[part.start]
        return self.network.loss_and_gradients(own, tokens[part], due[part], query, self.batches.shared)

    @torch.no_grad()
    def _untrained_losses(self) -> Tensor:
        """Losses of the first batch, before any step."""
        batch = self.batches[0]
        return torch.cat([self._gradients(part, *batch)[0] for part in self.optimizer.parts])

    @torch.no_grad()
    def evaluate(self) -> None:
        """Append a row to every member's history; the last one is measured on all facts."""
        last = self.step == self.config.steps
        losses = self._untrained_losses() if self.loss_steps == 0 else self.loss_sum / self.loss_steps
        for member, (experiment, sampled) in enumerate(zip(self.experiments, self.sampled, strict=True)):
            questions = Questions.all(self.corpora[member]) if last else sampled
            record = {
                "step": self.step,
                "tokens_seen": self.step * self.config.batch_size * self.corpora[member].n_ctx,
                "learning_rate": experiment.train.lr_at(max(self.step - 1, 0)),
                "loss": float(losses[member]),
            }
            if np.isfinite(record["loss"]):
                logits, states = self._answer(member, questions)
                if all(bool(x.isfinite().all()) for x in (logits, *states)):
                    record |= questions.accuracy(logits) | questions.representation(states)
            self.records[member].append(record)
        self.loss_sum.zero_()
        self.loss_steps = 0

    def _answer(self, member: int, questions: Questions) -> tuple[Tensor, list[Tensor]]:
        """Logits `[row, vocab]` and states by layer `[row, d_model]` of one member at the answer position."""
        own = {name: p[member : member + 1] for name, p in self.parameters.items()}
        logits, states = [], []
        for prompts in questions.prompts.to(self.device).split(BATCH_ROWS):
            last = slice(prompts.shape[1] - 1, prompts.shape[1])
            output = self.network.forward(own, prompts[None], last, self.batches.shared)
            logits.append(output.logits[0, :, 0].cpu())
            states.append([state[0, :, 0].cpu() for state in output.residual])
        return torch.cat(logits), [torch.cat(parts) for parts in zip(*states, strict=True)]

    def summary(self) -> dict[str, str]:
        """Means over members for the progress bar."""
        last = [records[-1] for records in self.records]
        names = [name for name in ("loss", "recall", "transfer") if name in last[0]]
        return {name: f"{pd.Series([record.get(name, np.nan) for record in last]).mean():.2f}" for name in names}

    def checkpoint(self) -> None:
        """Keep the weights of this step."""
        self.checkpoints[self.step] = {name: p.detach().cpu().clone() for name, p in self.parameters.items()}

    def finish(self) -> list[Run]:
        """Put every member into the store; one that diverged is named in a warning."""
        runs = []
        for member, experiment in enumerate(self.experiments):
            history = pd.DataFrame(self.records[member])
            if "recall" not in history:  # diverged from the start
                history = history.assign(recall=np.nan, transfer=np.nan)
            diverged = history["step"][~np.isfinite(history["loss"]) | history["recall"].isna()]
            if len(diverged):
                warnings.warn(
                    f"a run (seed {experiment.seed}) diverged before step {diverged.iloc[0]}: "
                    "its loss or its states are not finite",
                    stacklevel=2,
                )
            weights = {step: unstack(parameters, member) for step, parameters in self.checkpoints.items()}
            runs.append(store.save(experiment, history, weights))
        self.progress.remove()
        return runs

    def save(self) -> None:
        """Write down where training stands, to go on from there."""
        tensors = {f"parameter/{name}": p for name, p in self.parameters.items()}
        tensors |= {f"moment/{name}": moment for name, moment in self.optimizer.moments.items()}
        for step, parameters in self.checkpoints.items():
            tensors |= {f"checkpoint/{step}/{name}": p for name, p in parameters.items()}
        tensors |= {"loss_sum": self.loss_sum, "finite_steps": self.finite_steps}
        state = {"step": self.step, "loss_steps": self.loss_steps, "records": self.records}
        self.progress.save(tensors, state)

    def _resume(self) -> None:
        saved = self.progress.load()
        if saved is None:
            return
        tensors, state = saved
        self.step, self.loss_steps, self.records = state["step"], state["loss_steps"], state["records"]
        self.loss_sum.copy_(tensors["loss_sum"])
        self.finite_steps.copy_(tensors["finite_steps"])
        for name, p in self.parameters.items():
            p.copy_(tensors[f"parameter/{name}"])
        self.optimizer.load({name: tensors[f"moment/{name}"] for name in self.optimizer.moments}, self.step)
        for full_name, tensor in tensors.items():
            if full_name.startswith("checkpoint/"):
                _, step, name = full_name.split("/", 2)
                self.checkpoints.setdefault(int(step), {})[name] = tensor

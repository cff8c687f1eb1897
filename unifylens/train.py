"""Optimisation of one stack: models of one shape at once, with history, checkpoints and resumption."""

from __future__ import annotations

import ctypes
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from threadpoolctl import threadpool_limits
from torch import Tensor

from unifylens import store
from unifylens.config import Experiment, torch_seed
from unifylens.corpus import Corpus
from unifylens.evaluate import BATCH_ROWS, Questions
from unifylens.model import build_model
from unifylens.stack import forward, mean_cross_entropy, stack_parameters, unstack

SECONDS_BETWEEN_SAVES = 60.0
STEPS_PER_DRAW = 64


class Batches:
    """Batches of one member: which rows are drawn at which step depends on seed and step alone, so it can resume."""

    def __init__(self, experiment: Experiment, corpus: Corpus) -> None:
        self.seed = experiment.seed
        self.size = experiment.train.batch_size
        self.n_templates = len(corpus.templates)
        self.n_rows = corpus.n_rows
        self.stages = [(stop, torch.from_numpy(exposure).ravel().cumsum(0)) for _, stop, exposure in corpus.stages]
        self._chunk, self._draws = -1, torch.empty(0)

    def __getitem__(self, step: int) -> tuple[Int[Tensor, " batch"], Int[Tensor, " batch"]]:
        """Templates and rows of the examples of a step."""
        chunk, within = divmod(step, STEPS_PER_DRAW)
        if chunk != self._chunk:
            generator = torch.Generator().manual_seed(torch_seed(self.seed, "batches", chunk))
            shape = (STEPS_PER_DRAW, 2, self.size)
            self._chunk, self._draws = chunk, torch.rand(shape, generator=generator, dtype=torch.float64)
        which, where = self._draws[within]
        cumulative = next(cumulative for stop, cumulative in self.stages if step < stop)
        rows = torch.searchsorted(cumulative, where * cumulative[-1], right=True).clamp_(max=self.n_rows - 1)
        return (which * self.n_templates).long(), rows


@dataclass
class Result:
    """What the training of one model came to, as it travels from a worker to the store."""

    experiment: Experiment
    history: pd.DataFrame
    checkpoints: dict[int, dict[str, Tensor]]
    """State dicts by step."""
    diverged_at: int | None
    """First step at which the loss or the states were not finite."""


class Monitor:
    """Is told how a stack comes along, and may stop it between two steps. This one is silent and never does."""

    stop_requested = False

    def advanced(self, steps: int, resumed: bool = False) -> None:
        """All members took so many steps, now or (`resumed`) before an interruption."""

    def evaluated(self, summary: dict[str, float]) -> None:
        """All members were evaluated."""

    def stopped(self, where: str) -> None:
        """The stack stopped because it was requested."""

    def not_saved(self, problem: str) -> None:
        """Where the stack stands could not be saved, for the first time."""
        warnings.warn(problem, stacklevel=2)


def train_stack(experiments: list[Experiment], monitor: Monitor | None = None, threads: int = 1) -> list[Result]:
    """Train one stack to its end, or until its monitor stops it: then it is saved, and nothing comes back."""
    monitor = Monitor() if monitor is None else monitor
    if monitor.stop_requested:
        monitor.stopped("before a stack began")
        return []
    with _threads(threads):
        trainer = _Stack(experiments)
        monitor.advanced(trainer.step, resumed=True)
        saver = _ProgressSaver(trainer, monitor)
        while True:
            if trainer.step in trainer.evaluation_steps and trainer.step not in trainer.evaluated:
                trainer.evaluate()
                monitor.evaluated(trainer.summary())
            if trainer.step in trainer.checkpoint_steps and trainer.step not in trainer.checkpoints:
                trainer.checkpoint()
            if trainer.step == trainer.config.steps:
                break
            if monitor.stop_requested:
                monitor.stopped(f"after step {trainer.step} of {trainer.config.steps}" + saver.save())
                return []
            saver.save_now_and_then()
            trainer.advance()
            monitor.advanced(1)
        saver.save_long_training()
        results = trainer.finish()
    if monitor.stop_requested:
        monitor.stopped("after the last step of a stack")
    return results


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Threads of torch in this worker, and one of BLAS: its threads only wait for each other on small matrices."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(1, user_api="blas"):
            yield
    finally:
        torch.set_num_threads(before)


class _ProgressSaver:
    """Saves a stack every `SECONDS_BETWEEN_SAVES`; a disk that is full costs a warning, not the training."""

    def __init__(self, trainer: _Stack, monitor: Monitor) -> None:
        self._trainer, self._monitor = trainer, monitor
        self._saved = self._began = time.monotonic()
        self._warned = False

    def save_now_and_then(self) -> None:
        """Save if it is time to."""
        if time.monotonic() - self._saved > SECONDS_BETWEEN_SAVES:
            self.save()

    def save_long_training(self) -> None:
        """Save a stack at its end, if it took long: its results have still to reach the store."""
        if time.monotonic() - self._began > SECONDS_BETWEEN_SAVES:
            self.save()

    def save(self) -> str:
        """Save; what went wrong as the end of a sentence, or nothing."""
        self._saved = time.monotonic()
        try:
            self._trainer.save()
        except OSError as error:
            if not self._warned:
                self._warned = True
                self._monitor.not_saved(
                    f"a stack under way could not be saved in {self._trainer.progress.path.parent} ({error}); training "
                    "goes on, but would start anew after an interruption. Make space there; UNIFYLENS_HOME moves "
                    "what the next call saves"
                )
            return f" (not saved: {error})"
        return ""


def mean_of_last(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Loss, recall and transfer of several histories' last rows, averaged over those that have them."""
    means = pd.DataFrame([{name: row.get(name, np.nan) for name in ("loss", "recall", "transfer")} for row in rows])
    return means.mean().dropna().to_dict()


def device() -> torch.device:
    """Where models train: the GPU where torch sees one (hide it with `CUDA_VISIBLE_DEVICES=`), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
        self.batches = [Batches(e, corpus) for e, corpus in zip(experiments, self.corpora, strict=True)]
        self.sampled = [
            Questions.sample(corpus, self.config.eval_facts, e.seed)
            for e, corpus in zip(experiments, self.corpora, strict=True)
        ]
        self.device = device()
        self.sequences = torch.stack([corpus.sequences for corpus in self.corpora]).to(self.device)
        answer_positions = [self.corpora[0].position("answer", t) for t in range(len(self.corpora[0].templates))]
        self.answer_positions = torch.tensor(answer_positions, device=self.device)
        corpus = self.corpora[0]
        models = [build_model(e.model, corpus.d_vocab, corpus.n_ctx, e.seed) for e in experiments]
        self.cfg = models[0].cfg
        self.parameters = stack_parameters(models, self.device)
        decayed = [p for name, p in self.parameters.items() if ".W_" in name]
        others = [p for name, p in self.parameters.items() if ".W_" not in name]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.config.lr,
            betas=self.config.betas,
            fused=True,
        )
        self.step = 0
        self.loss_sum = torch.zeros(len(experiments), dtype=torch.float64, device=self.device)
        self.loss_steps = 0
        self.records: list[list[dict[str, float]]] = [[] for _ in experiments]
        self.checkpoints: dict[int, dict[str, Tensor]] = {}
        self.progress = store.Progress(experiments)
        self._resume()

    @property
    def evaluated(self) -> set[int]:
        """Steps that stand in the histories."""
        return {int(record["step"]) for record in self.records[0]}

    def losses(self, step: int) -> Float[Tensor, " model"]:
        """Loss of every member on its batch of a step, in nats per predicted token."""
        # drawn on the CPU, so that every device sees the same batches
        templates, rows = map(torch.stack, zip(*(batches[step] for batches in self.batches), strict=True))
        templates, rows = templates.to(self.device), rows.to(self.device)
        members = torch.arange(len(self.experiments), device=self.device)[:, None]
        sequences = self.sequences[members, templates, rows]
        query = self.answer_positions[templates]
        if self.config.loss == "answer":
            due = sequences.gather(2, query[..., None] + 1)
            tokens = sequences[..., : int(query.max()) + 1]
            logits = forward(self.parameters, self.cfg, tokens, query).logits
        else:
            tokens, due = sequences[..., :-1], sequences[..., 1:]
            logits = forward(self.parameters, self.cfg, tokens).logits
        return mean_cross_entropy(logits.flatten(1, 2), due.flatten(1))

    def advance(self) -> None:
        """One optimiser step of every member."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr_at(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.losses(self.step)
        losses.sum().backward()  # members share no parameter, so the sum keeps their gradients apart
        self.optimizer.step()
        self.step += 1
        self.loss_sum += losses.detach().double()
        self.loss_steps += 1

    @torch.no_grad()
    def evaluate(self) -> None:
        """Append a row to every member's history; the last one is measured on all facts."""
        last = self.step == self.config.steps
        losses = self.losses(0) if self.loss_steps == 0 else self.loss_sum / self.loss_steps
        for member, sampled in enumerate(self.sampled):
            questions = Questions.all(self.corpora[member]) if last else sampled
            record = {
                "step": self.step,
                "tokens_seen": self.step * self.config.batch_size * self.sequences.shape[-1],
                "learning_rate": self.config.lr_at(max(self.step - 1, 0)),
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
            query = torch.full((1, len(prompts)), prompts.shape[1] - 1, device=self.device)
            output = forward(own, self.cfg, prompts[None], query)
            logits.append(output.logits[0, :, 0].cpu())
            states.append([state[0, :, 0].cpu() for state in output.residual])
        return torch.cat(logits), [torch.cat(parts) for parts in zip(*states, strict=True)]

    def summary(self) -> dict[str, float]:
        """Means over members of what a progress bar shows."""
        return mean_of_last([records[-1] for records in self.records])

    def checkpoint(self) -> None:
        """Keep the weights of this step."""
        self.checkpoints[self.step] = {name: p.detach().cpu().clone() for name, p in self.parameters.items()}

    def finish(self) -> list[Result]:
        """What came of every member."""
        results = []
        for member, experiment in enumerate(self.experiments):
            history = pd.DataFrame(self.records[member])
            if "recall" not in history:  # diverged from the start
                history = history.assign(recall=np.nan, transfer=np.nan)
            diverged = history["step"][~np.isfinite(history["loss"]) | history["recall"].isna()]
            weights = {step: unstack(parameters, member) for step, parameters in self.checkpoints.items()}
            results.append(Result(experiment, history, weights, int(diverged.iloc[0]) if len(diverged) else None))
        return results

    def save(self) -> None:
        """Write down where training stands, to go on from there."""
        tensors = {f"parameter/{name}": p.detach() for name, p in self.parameters.items()}
        tensors["loss_sum"] = self.loss_sum
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{name}": value for name, value in state.items()}
        for step, parameters in self.checkpoints.items():
            tensors |= {f"checkpoint/{step}/{name}": p for name, p in parameters.items()}
        state = {"step": self.step, "loss_steps": self.loss_steps, "records": self.records}
        self.progress.save(tensors, state)

    def _resume(self) -> None:
        saved = self.progress.load()
        if saved is None:
            return
        tensors, state = saved
        self.step, self.loss_steps, self.records = state["step"], state["loss_steps"], state["records"]
        self.loss_sum.copy_(tensors["loss_sum"])
        moments: dict[int, dict[str, Tensor]] = {}
        for full_name, tensor in tensors.items():
            kind, _, name = full_name.partition("/")
            first, _, rest = name.partition("/")
            if kind == "parameter":
                self.parameters[name].data.copy_(tensor)
            elif kind == "optimizer":
                moments.setdefault(int(first), {})[rest] = tensor
            elif kind == "checkpoint":
                self.checkpoints.setdefault(int(first), {})[rest] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})

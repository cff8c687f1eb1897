"""Optimisation of one stack: models of one shape at once, with history, checkpoints and resumption."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from unifylens.config import Experiment
from unifylens.corpus.corpus import Corpus
from unifylens.crosslingual.evaluate import Questions
from unifylens.hardware import device, freed_memory_returned, keep_freed_memory, limited_threads, warn_of_slow_bfloat16
from unifylens.model import shape_for
from unifylens.patching.stream import BATCH_ROWS
from unifylens.training.adamw import PART_SIZE, Graph, StackedAdamW
from unifylens.training.alignment import Alignment
from unifylens.training.batches import Batches
from unifylens.training.progress import Progress
from unifylens.training.run import by_layer
from unifylens.training.sparse import mask, moves_few
from unifylens.training.stack import (
    Network,
    Parameters,
    Stacked,
    network_of,
    stack_parameters,
    token_languages,
    unstack,
)
from unifylens.training.start import first_parameters

SECONDS_BETWEEN_SAVES = 60.0
COUNTERS = ("loss_sum", "taken", "diverged_at")


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


def train_stack(
    experiments: list[Experiment],
    monitor: Monitor | None = None,
    threads: int = 1,
    network: Network | None = None,
) -> list[Result]:
    """Train one stack to its end, or until its monitor stops it: then it is saved, and nothing comes back.

    `network` computes the members in another way than that of their shape; such a stack is not saved on its way, as
    experiments do not say how it was trained.
    """
    monitor = Monitor() if monitor is None else monitor
    if monitor.stop_requested:
        monitor.stopped("before a stack began")
        return []
    with limited_threads(threads):
        trainer = _Stack(experiments, network)
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


class _Stack:
    """K models of one shape on their way."""

    def __init__(self, experiments: list[Experiment], network: Network | None = None) -> None:
        keep_freed_memory()
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
        self.alignment = Alignment(experiments, self.corpora, self.batches.sequences)
        shapes = [shape_for(e.model, c) for e, c in zip(experiments, self.corpora, strict=True)]
        made_of = zip(experiments, self.corpora, shapes, strict=True)
        members = [first_parameters(experiment, corpus, shape) for experiment, corpus, shape in made_of]
        self.parameters = stack_parameters(members, self.device)
        on_gpu = self.device.type == "cuda"
        if self.config.precision == "bfloat16" and not on_gpu:
            warn_of_slow_bfloat16()
        self.network = network or network_of(
            shapes[0], self.device, self.config.precision == "bfloat16", token_languages(shapes, self.device)
        )
        few = moves_few(self.config)  # stacks share whether they do
        masks = stack_parameters([mask(e) for e in experiments], self.device) if few else None
        self.optimizer = StackedAdamW(
            self.parameters, [e.train for e in experiments], len(experiments) if on_gpu else PART_SIZE, masks
        )
        self.update = Graph(self._update) if on_gpu and isinstance(self.network, Stacked) else self._update
        self.step = 0
        self.losses = torch.zeros(len(experiments), device=self.device)
        """Loss of every member at the last step, in nats per predicted token."""
        self.loss_sum = self.losses.double()
        """Since the last evaluation."""
        self.loss_steps = 0
        self.taken = torch.zeros((), dtype=torch.int64, device=self.device)
        """Steps, counted on the device."""
        self.diverged_at = torch.full_like(self.losses, -1, dtype=torch.int64)
        """Steps that every member had taken when its loss was first not finite; -1 if it always was."""
        self.records: list[list[dict[str, float]]] = [[] for _ in experiments]
        self.checkpoints: dict[int, dict[str, Tensor]] = {}
        self.progress = None if network else Progress(experiments)
        self._resume()

    @property
    def evaluated(self) -> set[int]:
        """Steps that stand in the histories."""
        return {int(record["step"]) for record in self.records[0]}

    def advance(self) -> None:
        """One optimiser step of every member."""
        inputs = self.inputs()
        self.optimizer.set_rates(self.step)
        self.update(*inputs)
        self.step += 1
        self.loss_steps += 1

    def inputs(self) -> list[list[Tensor]]:
        """What the next step looks at: the batch, and what each loss on states draws."""
        return [[x for x in self.batches[self.step] if x is not None], *self.alignment.draw(self.step)]

    @torch.no_grad()
    def _update(self, batch: list[Tensor], *drawn: list[Tensor]) -> None:
        """Losses, gradients and AdamW, all in place and nothing read back, so that a CUDA graph can record it."""
        for part in self.optimizer.parts:
            self.losses[part], gradients = self._gradients(part, *batch)
            own = self.optimizer.parameters[part.start]
            self.alignment.add(self.network.of(part), part, own, gradients, drawn)
            self.optimizer.update(part, gradients)
        self.loss_sum += self.losses
        diverges = ~self.losses.isfinite() & (self.diverged_at < 0)
        self.diverged_at.copy_(torch.where(diverges, self.taken, self.diverged_at))
        self.taken += 1

    def _gradients(
        self, part: slice, tokens: Tensor, due: Tensor, at: Tensor | None = None
    ) -> tuple[Tensor, Parameters]:
        query = self.batches.query if at is None else at[part]
        own = self.optimizer.parameters[part.start]
        return self.network.of(part).loss_and_gradients(own, tokens[part], due[part], query, self.batches.shared)

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
        for member in range(len(self.experiments)):
            with freed_memory_returned() if last else nullcontext():
                self._evaluate(member, float(losses[member]), last)
        self.loss_sum.zero_()
        self.loss_steps = 0

    def _evaluate(self, member: int, loss: float, last: bool) -> None:
        experiment, corpus = self.experiments[member], self.corpora[member]
        record = {
            "step": self.step,
            "tokens_seen": self.step * self.config.batch_size * corpus.n_ctx,
            "learning_rate": experiment.train.lr_at(max(self.step - 1, 0)),
            "loss": loss,
        } | self.alignment.means(member)
        if np.isfinite(loss):
            questions = Questions.all(corpus) if last else self.sampled[member]
            answers = questions.answered_by(partial(self._ask, member))
            if all(bool(x.sum().isfinite()) for x in (answers.logits, *answers.states)):
                record |= questions.accuracy(answers) | questions.representation(answers.states)
        self.records[member].append(record)

    def _ask(self, member: int, prompts: Tensor, at: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits `[row, vocab]`, where models train, and states by layer `[row, d_model]` of a member, at a position of
        each prompt."""
        own = {name: p[member : member + 1] for name, p in self.parameters.items()}
        same = bool((at == at[0]).all())
        logits, states = torch.empty(0), []  # filled part by part: two of either would not fit where one does
        for start in range(0, len(prompts), BATCH_ROWS):
            rows = slice(start, start + BATCH_ROWS)
            query = slice(int(at[0]), int(at[0]) + 1) if same else at[rows][None, :, None].to(self.device)
            tokens = prompts[None, rows, : int(at.max()) + 1].to(self.device)
            output = self.network.of(slice(member, member + 1)).forward(own, tokens, query, self.batches.shared)
            if start == 0:
                logits = torch.empty(len(prompts), output.logits.shape[-1], device=self.device)
                states = [torch.empty(len(prompts), state.shape[-1]) for state in output.residual]
            logits[rows] = output.logits[0, :, 0]
            for whole, state in zip(states, output.residual, strict=True):
                whole[rows] = state[0, :, 0].cpu()
        return logits, states

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
            diverged = int(self.diverged_at[member])
            unmeasured = history["step"][history["recall"].isna()]
            if diverged < 0 and len(unmeasured):  # the loss stayed finite, the states did not
                diverged = int(unmeasured.iloc[0])
            weights = {step: unstack(parameters, member) for step, parameters in self.checkpoints.items()}
            results.append(Result(experiment, history, weights, diverged if diverged >= 0 else None))
        return results

    def save(self) -> None:
        """Write down where training stands, to go on from there."""
        if self.progress is None:
            return
        state = {"step": self.step, "loss_steps": self.loss_steps, "records": self.records}
        self.progress.save(self._tensors(self.checkpoints), state)

    def _tensors(self, checkpoints: Mapping[int, Parameters]) -> dict[str, Tensor]:
        """All that training goes on from, by the names in which it is saved."""
        tensors = {f"parameter/{name}": p for name, p in self.parameters.items()}
        tensors |= {f"moment/{name}": moment for name, moment in self.optimizer.moments.items()}
        for step, parameters in checkpoints.items():
            tensors |= {f"checkpoint/{step}/{name}": p for name, p in parameters.items()}
        return tensors | {name: getattr(self, name) for name in COUNTERS} | self.alignment.tensors()

    def _resume(self) -> None:
        saved = self.progress.load() if self.progress else None
        if self.progress is None or saved is None:
            return
        tensors, state = saved
        expected = self._tensors({step: self.parameters for step in self.checkpoint_steps if step <= state["step"]})
        if _forms(tensors) != _forms(expected) or len(state["records"]) != len(self.experiments):
            self.progress.refuse("holds other tensors than this stack has")
            return
        self.step, self.loss_steps = state["step"], state["loss_steps"]
        self.records = [by_layer(pd.DataFrame(records)).to_dict("records") for records in state["records"]]
        for name in COUNTERS:
            getattr(self, name).copy_(tensors[name])
        for name, tensor in self.alignment.tensors().items():
            tensor.copy_(tensors[name])
        for name, p in self.parameters.items():
            p.copy_(tensors[f"parameter/{name}"])
        self.optimizer.load({name: tensors[f"moment/{name}"] for name in self.optimizer.moments}, self.step)
        for full_name, tensor in tensors.items():
            if full_name.startswith("checkpoint/"):
                _, step, name = full_name.split("/", 2)
                self.checkpoints.setdefault(int(step), {})[name] = tensor


def _forms(tensors: Mapping[str, Tensor]) -> dict[str, tuple]:
    """Type and shape by name."""
    return {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}

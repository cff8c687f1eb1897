"""Training under the attention patterns of another model, after Zucchet et al. 2025 (arXiv 2503.21676).

A fresh model learns everything but where to attend: at every step its patterns are those that a reference has on the
same batch. What a plateau in learning waits for, other than attention, is still to be waited for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import joblib
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from unifylens.crosslingual.evaluate import Questions
from unifylens.hardware import keep_freed_memory, limited_threads
from unifylens.model import Shape, initial_parameters, shape_of
from unifylens.training import workers
from unifylens.training.adamw import PART_SIZE, StackedAdamW
from unifylens.training.batches import Batches
from unifylens.training.stack import Parameters, Pass, Query, Stacked, cross_entropy, stack_parameters
from unifylens.training.store import Run

__all__ = ["train_with_attention"]


def train_with_attention(runs: Sequence[Run], steps: Sequence[int], *, progress: bool = True) -> pd.DataFrame:
    """Train every run's experiment anew, attending as the run did after each of `steps`; one history a run and step.

    Weights start, and batches come, as in the run itself; only attention differs, so its own history is the comparison.
    Columns: `attention_step`, `seed`, and those of `run.history` but the learning rate. Nothing is stored.

    Raises ValueError for no run, runs of different shapes or one that is not stacked, or a step that was not kept.
    """
    if not runs or not steps:
        raise ValueError(f"runs has {len(runs)} entries and steps {len(steps)}; allowed: one or more of both.")
    shapes = {(r.experiment.model, r.experiment.train, r.corpus.d_vocab, *r.corpus.sequences.shape) for r in runs}
    if len(shapes) > 1:
        raise ValueError(
            "runs differ in model, train, vocabulary or prompts; allowed: runs that differ in seed and in which facts "
            "are seen alone."
        )
    for run in runs:
        run.corpus.position("answer")  # refuses prompts of several lengths
    references = [(run, step, run.parameters(step)) for run in runs for step in steps]
    parts = [references[i : i + PART_SIZE] for i in range(0, len(references), PART_SIZE)]
    total = len(references) * runs[0].experiment.train.steps
    bar = tqdm(total=total, desc="training under imposed attention", unit="step", disable=not progress)
    keep_freed_memory()
    with bar, limited_threads(1):
        parallel = joblib.Parallel(n_jobs=workers.worker_count(), backend="threading")
        return pd.concat(parallel(joblib.delayed(_train)(part, bar) for part in parts), ignore_index=True)


@torch.no_grad()
def _train(references: list[tuple[Run, int, Parameters]], bar: tqdm) -> pd.DataFrame:
    experiments = [run.experiment for run, _, _ in references]
    corpora = [run.corpus for run, _, _ in references]
    train = experiments[0].train
    shapes = [shape_of(e.model, c.d_vocab, c.n_ctx) for e, c in zip(experiments, corpora, strict=True)]
    parameters = stack_parameters([initial_parameters(s, e.seed) for s, e in zip(shapes, experiments, strict=True)])
    reference = stack_parameters([own for _, _, own in references])
    network = _Imposed(shapes[0], reference, bfloat16=train.precision == "bfloat16")
    batches = Batches(experiments, corpora)

    def learn(step: int) -> tuple[Float[Tensor, " model"], Parameters]:
        tokens, due, at = batches[step]
        query = batches.query if at is None else at
        return network.loss_and_gradients(parameters, tokens, due, query, batches.shared)

    optimizer = StackedAdamW(parameters, [e.train for e in experiments], len(experiments))
    sampled = [Questions.sample(c, train.eval_facts, e.seed) for e, c in zip(experiments, corpora, strict=True)]
    evaluated, losses = set(train.evaluation_steps()), []
    histories: list[list[dict[str, float]]] = [[] for _ in references]
    for step in range(train.steps + 1):
        if step in evaluated:
            mean = torch.stack(losses).mean(0) if losses else learn(0)[0]
            for member, (run, at, _) in enumerate(references):
                questions = Questions.all(corpora[member]) if step == train.steps else sampled[member]
                answers = questions.answered_by(partial(network.answer, parameters, member))
                record = {
                    "attention_step": at,
                    "seed": run.experiment.seed,
                    "step": step,
                    "tokens_seen": step * train.batch_size * corpora[member].n_ctx,
                    "loss": float(mean[member]),
                }
                histories[member].append(
                    record | questions.accuracy(answers) | questions.representation(answers.states)
                )
            losses = []
        if step < train.steps:
            optimizer.set_rates(step)
            loss, gradients = learn(step)
            optimizer.update(optimizer.parts[0], gradients)
            losses.append(loss)
            bar.update(len(experiments))
    return pd.DataFrame([record for history in histories for record in history])


class _Imposed:
    """K models, each attending as its reference does."""

    def __init__(self, cfg: Shape, reference: Parameters, bfloat16: bool = False) -> None:
        self.network, self.reference = Stacked(cfg, bfloat16), reference

    def loss_and_gradients(
        self, parameters: Parameters, tokens: Tensor, due: Tensor, query: Query, shared: int
    ) -> tuple[Float[Tensor, " model"], Parameters]:
        run = self._run(self.reference, parameters, tokens, query, shared, bfloat16=self.network.bfloat16)
        losses, gradient = cross_entropy(run.forward(), due.transpose(1, 2).flatten(1))
        return losses, run.backward(gradient)

    def answer(
        self, parameters: Parameters, member: int, prompts: Int[Tensor, "row pos"], at: Int[Tensor, " row"]
    ) -> tuple[Float[Tensor, "row d_vocab"], list[Float[Tensor, "row d_model"]]]:
        """Logits and states by layer of one member at the last prompt token, the same position in all prompts."""
        own, reference = (
            {name: p[member : member + 1] for name, p in of.items()} for of in (parameters, self.reference)
        )
        run = self._run(reference, own, prompts[None], slice(int(at[0]), int(at[0]) + 1), 1)
        logits = run.forward()
        *before, last = run.residual
        return run.at.by_batch(logits)[0, :, 0], [
            run.at.by_batch(x)[0, :, 0] for x in (*map(run.at.asked, before), last)
        ]

    def _run(
        self, reference: Parameters, parameters: Parameters, *where: object, bfloat16: bool = False
    ) -> _ImposedPass:
        shown = Pass(self.network, reference, *where, bfloat16=False)
        shown.blocks()
        run = _ImposedPass(self.network, parameters, *where, bfloat16=bfloat16)
        run.imposed = [trace["attention"][3] for trace in shown.trace]
        return run


class _ImposedPass(Pass):
    """A pass whose patterns are given by layer; queries and keys then have no gradient."""

    imposed: list[Float[Tensor, "model query key batch head"]]

    def pattern(self, q: Tensor, k: Tensor, hidden: Tensor | None) -> Float[Tensor, "model query key batch head"]:
        """The reference's pattern of the layer under way."""
        return self.imposed[len(self.trace) - 1]

    def attend_backward(self, gradient: Tensor, trace: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The values' alone."""
        q, k, *_ = trace["attention"]
        return torch.zeros_like(q), torch.zeros_like(k), super().attend_backward(gradient, trace)[2]

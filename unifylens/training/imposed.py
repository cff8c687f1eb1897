"""Training under the attention patterns of another model, after Zucchet et al. 2025 (arXiv 2503.21676).

A fresh model learns everything but where to attend: at every step its patterns are those that a reference has on the
same batch. What a plateau in learning waits for, other than attention, is still to be waited for.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import copy

import joblib
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from unifylens.config import Experiment
from unifylens.hardware import device, limited_threads
from unifylens.model import Shape, shape_for
from unifylens.training import store, workers
from unifylens.training.adamw import PART_SIZE
from unifylens.training.run import Run
from unifylens.training.stack import (
    Output,
    Parameters,
    Pass,
    Query,
    Stacked,
    States,
    Trace,
    stack_parameters,
    token_languages,
)
from unifylens.training.trainer import Monitor, train_stack

__all__ = ["train_with_attention"]

Member = tuple[Run, int, Run]
"""A run, a step, and the run whose attention after that step is imposed."""


def train_with_attention(
    runs: Sequence[Run], steps: Sequence[int], *, references: Sequence[Run] | None = None, progress: bool = True
) -> pd.DataFrame:
    """Train every run's experiment anew, attending as the run did after each of `steps`; one history a run and step.

    Weights start, and batches come, as in the run itself; only attention differs, so its own history is the comparison.
    With `references`, one for each run, it attends as the reference did: models of other data with the same weights at
    the start tell whether it matters whose attention it is.
    Columns: `attention_step`, `seed`, and those of `run.history`. Histories are kept in the store beside the runs;
    models are not.

    Raises ValueError for no run, another number of references, runs of different shapes or one that is not stacked, or
    a step that was not kept; OSError where a kept history cannot be read.
    """
    if not runs or not steps:
        raise ValueError(f"runs has {len(runs)} entries and steps {len(steps)}; allowed: one or more of both.")
    references = runs if references is None else references
    if len(references) != len(runs):
        raise ValueError(f"references has {len(references)} entries; allowed: one for each of {len(runs)} runs.")
    everyone = [*runs, *references]
    shapes = {(r.experiment.model, r.experiment.train, r.corpus.d_vocab, *r.corpus.sequences.shape) for r in everyone}
    if len(shapes) > 1:
        raise ValueError(
            "runs differ in model, train, vocabulary or prompts; allowed: runs that differ in seed and in which facts "
            "are seen alone."
        )
    for run in runs:
        run.corpus.position("answer")  # refuses prompts of several lengths
    paired = zip(runs, references, strict=True)
    members = list(dict.fromkeys((run, step, reference) for run, reference in paired for step in steps))
    histories = {member: store.load_imposed(*_experiments(member)) for member in members}
    missing = [member for member, history in histories.items() if history is None]
    if missing:
        histories |= _train_all(missing, progress)
    tables = []
    for (run, step, _), history in histories.items():
        labels = pd.DataFrame({"attention_step": step, "seed": run.experiment.seed}, history.index)
        tables.append(labels.join(history))
    return pd.concat(tables, ignore_index=True)


def _experiments(member: Member) -> tuple[Experiment, int, Experiment]:
    run, step, reference = member
    return run.experiment, step, reference.experiment


def _train_all(members: list[Member], progress: bool) -> dict[Member, pd.DataFrame]:
    size = PART_SIZE if device().type == "cpu" else len(members)
    parts = [members[i : i + size] for i in range(0, len(members), size)]
    total = len(members) * members[0][0].experiment.train.steps
    bar = tqdm(total=total, desc="training under imposed attention", unit="step", disable=not progress)
    with bar, limited_threads(1):
        parallel = joblib.Parallel(n_jobs=workers.worker_count(), backend="threading")
        histories = parallel(joblib.delayed(_train)(part, bar) for part in parts)
    return {member: history for part in histories for member, history in part.items()}


def _train(members: list[Member], bar: tqdm) -> dict[Member, pd.DataFrame]:
    references = stack_parameters([reference.parameters(step) for _, step, reference in members], device())
    experiment = members[0][0].experiment
    shapes = [shape_for(run.experiment.model, run.corpus) for run, *_ in members]
    tables = token_languages(shapes, device())
    network = Imposed(shapes[0], references, experiment.train.precision == "bfloat16", tables)
    results = train_stack([run.experiment for run, *_ in members], _Bar(bar, len(members)), network=network)
    histories = {member: result.history for member, result in zip(members, results, strict=True)}
    try:
        for member, history in histories.items():
            store.save_imposed(*_experiments(member), history)
    except OSError as error:  # what was trained is given back all the same
        warnings.warn(f"histories under imposed attention are not kept: {error}", stacklevel=2)
    return histories


class _Bar(Monitor):
    """Counts the steps of all members of a stack."""

    def __init__(self, bar: tqdm, n_members: int) -> None:
        self._bar, self._n_members = bar, n_members

    def advanced(self, steps: int, resumed: bool = False) -> None:
        """All members took so many steps."""
        self._bar.update(steps * self._n_members)


class Imposed:
    """K models, each attending as its reference does."""

    def __init__(
        self,
        cfg: Shape,
        reference: Parameters,
        bfloat16: bool = False,
        token_language: Int[Tensor, "model d_vocab"] | None = None,
    ) -> None:
        """`reference` are the parameters whose patterns are imposed, a member each."""
        self.network, self.reference = Stacked(cfg, bfloat16, token_language), reference

    def of(self, members: slice) -> Imposed:
        """Some of the members, with their references."""
        some = copy(self)
        some.network, some.reference = self.network.of(members), {n: p[members] for n, p in self.reference.items()}
        return some

    def forward(self, parameters: Parameters, tokens: Tensor, query: Query = None, shared: int = 0) -> Output:
        """What the K models compute at the asked positions."""
        return self._run(parameters, tokens, query, shared).output()

    def loss_and_gradients(
        self, parameters: Parameters, tokens: Tensor, due: Tensor, query: Query = None, shared: int = 0
    ) -> tuple[Float[Tensor, " model"], Parameters]:
        """Mean cross-entropy of each model, and its gradients, as `Stacked` has them."""
        return self._run(parameters, tokens, query, shared, self.network.bfloat16).loss_and_gradients(due)

    def states(
        self, parameters: Parameters, tokens: Tensor, layer: int | None, query: slice | Tensor, shared: int = 0
    ) -> States:
        """The residual stream after `layer` blocks at one position of each sequence; the logits where it is None."""
        return self._run(parameters, tokens, query, shared, self.network.bfloat16, layer).states()

    def _run(
        self,
        parameters: Parameters,
        tokens: Tensor,
        query: Query,
        shared: int,
        bfloat16: bool = False,
        depth: int | None = None,
    ) -> _ImposedPass:
        shown = Pass(self.network, self.reference, tokens, query, shared, bfloat16=False, depth=depth)
        shown.blocks()
        run = _ImposedPass(self.network, parameters, tokens, query, shared, bfloat16, depth)
        run.imposed = [block.pattern for block in shown.trace]
        return run


class _ImposedPass(Pass):
    """A pass whose patterns are given by layer; queries and keys then have no gradient."""

    imposed: list[Float[Tensor, "model query key batch head"]]

    def pattern(self, q: Tensor, k: Tensor, hidden: Tensor | None) -> Float[Tensor, "model query key batch head"]:
        """The reference's pattern of the layer under way."""
        return self.imposed[len(self.trace) - 1]

    def attend_backward(self, gradient: Tensor, trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        """The values' alone."""
        values = super().attend_backward(gradient, trace)[2]
        return torch.zeros_like(trace.q), torch.zeros_like(trace.k), values

"""Which examples each model of a stack sees at each step; data and sampling live where the models train."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unifylens.config import Experiment
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.tokenization import PAD_ID
from unifylens.seeds import torch_seed

STEPS_PER_DRAW = 64


class Batch(NamedTuple):
    """Tokens that go in, the tokens due (padded), and where, unless it is at `Batches.query` everywhere."""

    tokens: Int[Tensor, "model batch pos"]
    due: Int[Tensor, "model batch query"]
    at: Int[Tensor, "model batch query"] | None


class Batches:
    """Batches of K members by step: what a member sees depends on its seed and the step alone, so it can resume."""

    def __init__(
        self, experiments: list[Experiment], corpora: list[Corpus], device: torch.device | str = "cpu"
    ) -> None:
        """All experiments share batch size, loss and shape of their sequences."""
        config = experiments[0].train
        self.seeds = [experiment.seed for experiment in experiments]
        self.size, self.device = config.batch_size, torch.device(device)
        self.sequences: Int[Tensor, "model template row pos"] = torch.stack([c.sequences for c in corpora])
        self.sequences = self.sequences.to(self.device)
        self.n_templates, self.n_rows, n_pos = self.sequences.shape[1:]
        self._members = torch.arange(len(corpora), device=self.device)[:, None]
        n_answer = max(corpus.due.shape[2] for corpus in corpora)
        at = torch.stack([_widened(corpus.answer_positions, n_answer, repeat=True) for corpus in corpora])
        due = torch.stack([_widened(corpus.due, n_answer) for corpus in corpora])
        first, last = int(at.min()), int(at.max())
        self._full = config.loss == "full"
        if self._full:
            first, last = 0, n_pos - 2
        contiguous = torch.arange(first, last + 1)
        same = at.shape[-1] == len(contiguous) and bool((at == contiguous).all())
        self.query = slice(first, last + 1) if same or self._full else None
        """Positions whose next token is due, where they are the same in all examples."""
        self._due = due.to(self.device)
        self._at = None if self.query else at.to(self.device)
        self._n_in = last + 1
        same = bool((self.sequences[..., 0] == self.sequences[:, :1, :1, 0]).all())
        self.shared = int(same and first > 0)
        """1 where position 0 holds the same token in all of a member's examples and is never asked for, else 0."""
        self._stages: list[list[tuple[int, Float[Tensor, " row"]]]] = [
            [(stop, torch.tensor(exposure).ravel().cumsum(0)) for _, stop, exposure in corpus.stages]
            for corpus in corpora
        ]
        self._since, self._until, self._cumulative = 0, 0, torch.empty(0)
        self._chunk, self._drawn = -1, torch.empty(0)

    def __getitem__(self, step: int) -> Batch:
        """What goes in at a step."""
        return self.of(*self.examples(step))

    def of(self, templates: Int[Tensor, "model batch"], rows: Int[Tensor, "model batch"]) -> Batch:
        """These examples as a batch."""
        tokens = self.sequences[self._members, templates, rows]
        if self._full:
            return Batch(tokens[..., :-1], tokens[..., 1:], None)
        due = self._due[self._members, templates, rows]
        at = None if self.query is not None else self._at[self._members, templates, rows]
        return Batch(tokens[..., : self._n_in], due, at)

    def examples(self, step: int) -> tuple[Int[Tensor, "model batch"], Int[Tensor, "model batch"]]:
        """Templates and rows of the examples of a step."""
        chunk, within = divmod(step, STEPS_PER_DRAW)
        if chunk != self._chunk:  # random numbers are the CPU's, so that every device sees the same batches
            self._chunk, self._drawn = chunk, torch.stack([self._draw(seed, chunk) for seed in self.seeds])
            self._drawn = self._drawn.to(self.device)
        which, where = self._drawn[:, within].unbind(1)
        cumulative = self._exposure(step)
        rows = torch.searchsorted(cumulative, where * cumulative[:, -1:], right=True).clamp_(max=self.n_rows - 1)
        return (which * self.n_templates).long(), rows

    def _exposure(self, step: int) -> Float[Tensor, "model row"]:
        """Cumulative exposure of every row at a step."""
        if not self._since <= step < self._until:
            current = [next(stage for stage in stages if step < stage[0]) for stages in self._stages]
            self._since, self._until = step, min(stop for stop, _ in current)
            self._cumulative = torch.stack([table for _, table in current]).to(self.device)
        return self._cumulative

    def _draw(self, seed: int, chunk: int) -> Float[Tensor, "step 2 batch"]:
        generator = torch.Generator().manual_seed(torch_seed(seed, "batches", chunk))
        return torch.rand((STEPS_PER_DRAW, 2, self.size), generator=generator, dtype=torch.float64)


def _widened(table: Int[Tensor, "template row answer"], width: int, repeat: bool = False) -> Tensor:
    """The table with more columns: of padding, or repeating the last one."""
    more = table[..., -1:].expand(-1, -1, width - table.shape[2])
    return torch.cat([table, more if repeat else torch.full_like(more, PAD_ID)], 2)

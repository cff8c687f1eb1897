"""Edits by gradient steps: the state that gives another answer, and the weights. Edits never see each other."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.arguments import numbers, shown
from unifylens.edits.changes import Dense, Edits, Shift, checked_edits, read
from unifylens.edits.mlps import (
    check_mlps,
    checked_blocks,
    device_of,
    key_hook,
    norm_follows,
    output_hook,
    output_weight,
)
from unifylens.hardware import FLOAT, free_bytes
from unifylens.patching.edits import SHARE_OF_FREE_MEMORY, rows_at_a_time
from unifylens.patching.prompts import LAST, Prompts, as_prompts, by_length, in_order
from unifylens.patching.stream import Hook, Model, Rows, check_still, logits_of_table, resid_post
from unifylens.patching.tensors import is_whole

KEPT_FOR_GRADIENTS = 4
"""By how much more memory a run takes whose gradient is asked for (roughly)."""


def targets(
    model: Model,
    prompts: Rows,
    new: ArrayLike | Tensor,
    block: int = 0,
    *,
    role: str = "subject",
    kept: Rows | None = None,
    of: ArrayLike | Tensor | None = None,
    steps: int = 20,
    lr: float = 0.5,
    decay: float = 0.5,
    clamp: float = 0.75,
    kl: float = 0.0625,
) -> Float[Tensor, "edit d_model"]:
    """Changes of the state after a block, where a role stands, that make the model answer each prompt with a new token.

    As in ROME and MEMIT: steps of Adam on the new token's loss, on `decay` times the change's squared share of the
    state, and on `kl` times how far the answers to other prompts move (KL divergence, mean over an edit's): `kept`,
    which are `of` an edit each, such as the subject's other relations. No change is longer than `clamp` states. `lr` is
    in units of the state's root mean square, so that it suits a model of any scale. The change is made of the MLP's
    output: before a norm that may follow it, where the output takes the state's place in all of this.

    Raises ValueError for what are no prompts, tokens `[edit]` or edits, settings below 0, and rows without the role.

    >>> prompts = ul.crosslingual.prompts(run.corpus, [0, 5])
    >>> ul.edits.targets(run.model, prompts, new=run.corpus.answers[[5, 0]], block=0).shape
    torch.Size([2, 16])
    """
    prompts, new = _asked(model, prompts, new)
    if len(chosen := checked_blocks(model, block, "block")) > 1:
        raise ValueError(f"block={list(chosen)}; allowed: one block, after which the state changes.")
    _check(steps, lr=lr, decay=decay, clamp=clamp, kl=kl)
    (block,) = chosen
    if (kept is None) != (of is None):
        raise ValueError("kept and of go together: prompts, and the edit that each belongs to; allowed: both or none.")
    kept = None if kept is None else as_prompts(model, kept, "kept")
    of = None if kept is None else checked_edits(of, len(prompts), len(kept), "of", "prompts")
    for name, some in (("prompts", prompts), ("kept", kept)):
        if some is not None:
            some.at(role, name)
    state = read(model, prompts, output_hook(model, block) if norm_follows(model, block) else resid_post(block), role)
    scale = state.square().mean(1, keepdim=True).sqrt().float()
    each = 1 if of is None else 1 + int(of.bincount(minlength=len(prompts)).max())

    def part(some: Int[Tensor, " edit"]) -> Float[Tensor, "edit d_model"]:
        rows = None if of is None else torch.isin(of, some).nonzero()[:, 0]
        asked = _tables(model, prompts.part(some), torch.arange(len(some)))
        others = (
            [] if rows is None or not len(rows) else _tables(model, kept.part(rows), torch.searchsorted(some, of[rows]))
        )
        with torch.no_grad():
            plain = [logits_of_table(model, table.tokens).log_softmax(-1) for table in others]
        share = kl / torch.bincount(torch.cat([t.edit for t in others]), minlength=len(some)) if others else None
        size = scale[some].to(asked[0].tokens.device)
        x = size.new_zeros(len(some), model.cfg.d_model, requires_grad=True)
        optimiser = torch.optim.Adam([x], lr=lr)
        for _ in range(steps):
            change = Shift(block, x * size, role)
            loss = decay * x.square().mean(1).sum()
            for table in asked:
                said = table.logits(model, change.hooks).log_softmax(-1)
                loss = loss - said.gather(1, new[some][table.edit, None].to(said.device)).sum()
            for table, before in zip(others, plain, strict=True):
                said = table.logits(model, change.hooks).log_softmax(-1)
                moved = (said.exp() * (said - before)).sum(-1)
                loss = loss + (share[table.edit].to(moved) * moved).sum()
            (x.grad,) = torch.autograd.grad(loss, [x])
            optimiser.step()
            with torch.no_grad():
                x *= (clamp * x.shape[1] ** 0.5 / x.norm(dim=1, keepdim=True).clamp_min(1e-12)).clamp(max=1)
        return (x * size).detach().cpu()

    return _in_parts(model, prompts, part, model.cfg.d_model, each)


def gradient(
    model: Model,
    prompts: Rows,
    new: ArrayLike | Tensor,
    blocks: ArrayLike | Tensor = 0,
    *,
    steps: int = 100,
    lr: float = 0.003,
    until: float = 0.9,
) -> Dense:
    """Fine-tune on one prompt at a time: steps of Adam on a new token's loss, until it is the answer.

    Trained are the output weights of some blocks' MLPs, `lr` in units of their root mean square. No edit goes on once
    its new token is the likeliest, with a probability of `until` or more: edits that just suffice hardly reach other
    prompts, so compare methods at equal strength.
    Raises ValueError for what are no prompts, tokens `[edit]` or blocks, and settings out of range.

    >>> change = ul.edits.gradient(run.model, run.corpus.prompts()[:2], new=run.corpus.answers[[5, 0]], blocks=[0])
    >>> change.weights.shape
    torch.Size([1, 2, 32, 16])
    """
    prompts, new = _asked(model, prompts, new)
    chosen = checked_blocks(model, blocks)
    check_mlps(model, chosen)
    _check(steps, lr=lr)
    if not isinstance(until, Real) or not 0 <= until < 1:
        raise ValueError(f"until={shown(until)}; allowed: a probability, 0 to below 1.")
    widths = _keys_and_outputs(model, prompts, chosen[0])

    def part(some: Int[Tensor, " edit"]) -> Float[Tensor, "edit block d_mlp d_model"]:
        tables, due = _tables(model, prompts.part(some), torch.arange(len(some))), new[some]
        device = tables[0].tokens.device
        x = torch.zeros(len(chosen), len(some), *widths, device=device, requires_grad=True)
        optimiser = torch.optim.Adam([x], lr=lr * _size(model, chosen))
        for _ in range(steps):
            loss, reached = 0.0, torch.zeros(len(some), dtype=torch.bool, device=device)
            for table in tables:
                said = table.logits(model, Dense(chosen, x).hooks).log_softmax(-1)
                token = due[table.edit].to(device)
                surprise = -said.gather(1, token[:, None])[:, 0]
                loss = loss + surprise.sum()
                reached[table.edit.to(device)] = (said.argmax(-1) == token) & ((-surprise).exp() >= until)
            if reached.all():
                break
            (x.grad,) = torch.autograd.grad(loss, [x])
            there = x.detach()[:, reached].clone()
            optimiser.step()
            with torch.no_grad():
                x[:, reached] = there
        return x.detach().cpu().transpose(0, 1)

    found = _in_parts(model, prompts, part, 4 * len(chosen) * widths[0] * widths[1], 1)
    return Dense(chosen, found.transpose(0, 1))


def _check(steps: int, **settings: float) -> None:
    if not is_whole(steps) or steps < 1:
        raise ValueError(f"steps={shown(steps)}; allowed: a whole number, 1 or more.")
    for name, value in settings.items():
        if not isinstance(value, Real) or not 0 <= value < float("inf"):
            raise ValueError(f"{name}={shown(value)}; allowed: a number from 0 on.")


# --- parts ---------------------------------------------------------------------------------------------------


class _Table(NamedTuple):
    """Prompts of one length, and the edit that each runs with."""

    tokens: Int[Tensor, "row pos"]
    prompts: Prompts
    edit: Int[Tensor, " row"]

    def logits(self, model: Model, hooks: Callable[[Model, Prompts, Edits], list[Hook]]) -> Float[Tensor, "row vocab"]:
        """At the last token; gradients pass through."""
        with torch.enable_grad():
            return logits_of_table(model, self.tokens, hooks(model, self.prompts, self.edit))


def _tables(model: Model, prompts: Prompts, edit: Int[Tensor, " row"]) -> list[_Table]:
    device = device_of(model)
    parts = ((rows, prompts.part(rows)) for rows in by_length(prompts))
    return [_Table(part.tokens.to(device), part, edit[rows]) for rows, part in parts]


def _asked(model: Model, prompts: Rows, new: ArrayLike | Tensor) -> tuple[Prompts, Int[Tensor, " edit"]]:
    """Prompts and the new token of each."""
    prompts = as_prompts(model, prompts)
    check_still(model, "the model")
    tokens = numbers(new, model.cfg.d_vocab, "new", "the vocabulary")
    if len(tokens) != len(prompts):
        raise ValueError(f"new has {len(tokens)} tokens for {len(prompts)} prompts; allowed: one for each.")
    return prompts, torch.from_numpy(tokens)


def _in_parts(
    model: Model, prompts: Prompts, part: Callable[[Tensor], Tensor], numbers_an_edit: int, rows_an_edit: int
) -> Tensor:
    """What `part` makes of some edits at a time, as many as memory allows."""
    device = device_of(model)
    fits = rows_at_a_time(model, KEPT_FOR_GRADIENTS * int(prompts.lengths.max()), 1, ()) // rows_an_edit
    room = SHARE_OF_FREE_MEMORY * free_bytes(device) / (FLOAT * KEPT_FOR_GRADIENTS * numbers_an_edit)
    rows = torch.arange(len(prompts)).split(max(1, min(fits, int(room))))
    return in_order([part(some) for some in rows], rows)


@torch.no_grad()
def _keys_and_outputs(model: Model, prompts: Prompts, block: int) -> tuple[int, int]:
    """Widths of an MLP's keys and outputs, as they run: not every config says the first."""
    names = key_hook(model, block), output_hook(model, block)
    return tuple(read(model, prompts[:1], name, LAST).shape[1] for name in names)


def _size(model: Model, blocks: tuple[int, ...]) -> float:
    """Root mean square of the output weights of some blocks' MLPs."""
    return float(torch.stack([output_weight(model, b).detach().float().square().mean() for b in blocks]).mean().sqrt())

"""What an edit changes, many edits side by side: each row of a batch runs with its own, without a model of its own.

An edit changes the output weights of some MLPs, `output = keys @ W_out + b_out`, or adds to a state. What stands in
weights is added to the MLP's output while the model runs, which is the same as writing it into them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor, nn

from unifylens.arguments import numbers
from unifylens.edits.mlps import (
    check_finite,
    check_mlps,
    checked_blocks,
    device_of,
    keep,
    key_hook,
    norm_follows,
    output_hook,
    output_weight,
)
from unifylens.hardware import FLOAT, free_bytes
from unifylens.patching.edits import SHARE_OF_FREE_MEMORY, rows_at_a_time
from unifylens.patching.prompts import Prompts, as_prompts, by_length, in_order
from unifylens.patching.stream import Hook, Model, Rows, block_of, check_still, logits_of_table

Edits = Int[Tensor, " row"] | None
"""The edit that each row runs with; None: all of them together."""


# --- kinds of changes ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RankOne:
    """Edits of rank one in each block: edit e adds the outer product of what it reads and what it writes to `W_out`.

    Together they are the sum over edits, of any rank.
    """

    blocks: tuple[int, ...]
    reads: Float[Tensor, "block edit d_mlp"]
    writes: Float[Tensor, "block edit d_model"]

    def __len__(self) -> int:
        """Number of edits."""
        return self.reads.shape[1]

    def hooks(self, model: Model, prompts: Prompts, edit: Edits) -> list[Hook]:
        """Hooks that let each row run with its edit."""

        def added(key: Tensor, number: int) -> Tensor:
            reads, writes = self.reads[number].to(key), self.writes[number].to(key)
            if edit is None:
                return key @ reads.T @ writes
            return (key * reads[edit][:, None]).sum(-1, keepdim=True) * writes[edit][:, None]

        return _at_outputs(model, self.blocks, added)

    def together(self) -> Float[Tensor, "block d_mlp d_model"]:
        """What all edits add to the blocks' `W_out`."""
        return self.reads.transpose(1, 2) @ self.writes

    def dot(self, other: RankOne) -> Float[Tensor, " edit"]:
        """Inner products of changes of weights, edit by edit."""
        return ((self.reads * other.reads).sum(-1) * (self.writes * other.writes).sum(-1)).sum(0)

    def numbers_a_row(self) -> int:
        """Numbers that a row's own edit holds."""
        return (self.reads.shape[-1] + self.writes.shape[-1]) * len(self.blocks)


@dataclass(frozen=True, eq=False)
class Dense:
    """Edits of any rank: edit e adds a matrix to each block's `W_out`."""

    blocks: tuple[int, ...]
    weights: Float[Tensor, "block edit d_mlp d_model"]

    def __len__(self) -> int:
        """Number of edits."""
        return self.weights.shape[1]

    def hooks(self, model: Model, prompts: Prompts, edit: Edits) -> list[Hook]:
        """Hooks that let each row run with its edit."""
        whole = self.together() if edit is None else self.weights[:, edit]
        return _at_outputs(model, self.blocks, lambda key, number: key @ whole[number].to(key))

    def together(self) -> Float[Tensor, "block d_mlp d_model"]:
        """What all edits add to the blocks' `W_out`."""
        return self.weights.sum(1)

    def dot(self, other: Dense) -> Float[Tensor, " edit"]:
        """Inner products of changes of weights, edit by edit."""
        return (self.weights * other.weights).sum((0, 2, 3))

    def numbers_a_row(self) -> int:
        """Numbers that a row's own edit holds."""
        return self.weights[:, 0].numel()


@dataclass(frozen=True, eq=False)
class Shift:
    """Edits of no weight: edit e adds a vector to a block's MLP output, and so to the state, where a role stands.

    It acts whatever the prompt says there: an upper bound of what an edit of the weights can bring to other prompts.
    """

    block: int
    vectors: Float[Tensor, "edit d_model"]
    role: str = "subject"

    def __len__(self) -> int:
        """Number of edits."""
        return len(self.vectors)

    def hooks(self, model: Model, prompts: Prompts, edit: Edits) -> list[Hook]:
        """Hooks that let each row run with its edit. Raises ValueError for all of them together."""
        if edit is None:
            raise ValueError("edit=None: Shift adds one vector to a row; allowed: the number of an edit for each row.")
        added, at = self.vectors[edit][:, None], prompts.at(self.role)[..., None]
        return [(output_hook(model, self.block), lambda x, hook: x + added.to(x) * at.to(x))]

    def dot(self, other: Shift) -> Float[Tensor, " edit"]:
        """Inner products of what is added, edit by edit."""
        return (self.vectors * other.vectors).sum(-1)

    def numbers_a_row(self) -> int:
        """Numbers that a row's own edit holds."""
        return self.vectors.shape[-1]


Change = RankOne | Dense | Shift


def check_change(model: Model, change: Change) -> None:
    """Raise ValueError for a change of other blocks or widths than a model's, or of what is not finite.

    Raises TypeError for what is no change, or whose blocks are no tuple.
    """
    if not isinstance(change, Change):
        raise TypeError(f"change is a {type(change).__name__}; allowed: RankOne, Dense, Shift.")
    if isinstance(change, Shift):
        checked_blocks(model, change.block, "block")
        norm_follows(model, change.block)  # which says where edits are passed over
        _check_shape("vectors", change.vectors, ("edit", model.cfg.d_model))
        return
    if not isinstance(change.blocks, tuple):
        raise TypeError(f"blocks is a {type(change.blocks).__name__}; allowed: a tuple of numbers of blocks.")
    chosen = checked_blocks(model, change.blocks)
    check_mlps(model, chosen)
    d_mlp, d_model = output_weight(model, chosen[0]).shape
    if isinstance(change, Dense):
        _check_shape("weights", change.weights, (len(chosen), "edit", d_mlp, d_model))
    else:
        _check_shape("reads", change.reads, (len(chosen), "edit", d_mlp))
        _check_shape("writes", change.writes, (len(chosen), len(change), d_model))


def _check_shape(name: str, given: Tensor, due: tuple[int | str, ...]) -> None:
    """Raise ValueError for other sizes than are due, where a word stands for any, and for what is not finite."""
    check_finite(given, name)
    shape = list(given.shape)
    if len(shape) != len(due) or any(size not in (own, "edit") for own, size in zip(shape, due, strict=True)):
        raise ValueError(f"{name} has shape {shape}; allowed for this model: [{', '.join(map(str, due))}].")


def _at_outputs(model: Model, blocks: tuple[int, ...], added: Callable[[Tensor, int], Tensor]) -> list[Hook]:
    """Hooks that add to the output of each block's MLP what its keys make of a number of a block."""
    found: list[Hook] = []
    for number, block in enumerate(blocks):
        kept: dict[str, Tensor] = {}
        found.append((key_hook(model, block), partial(keep, kept=kept)))
        found.append((output_hook(model, block), partial(_add, kept=kept, added=partial(added, number=number))))
    return found


def _add(output: Tensor, kept: dict[str, Tensor], added: Callable[[Tensor], Tensor], **_: Any) -> Tensor:
    return output + added(kept.pop("key")).to(output)


# --- running with them ---------------------------------------------------------------------------------------


def logits(model: Model, change: Change, prompts: Rows, edit: ArrayLike | Tensor | None = None) -> Tensor:
    """Logits `[row, vocab]` at each prompt's last token, row i under edit `edit[i]`; None: under all of them together.

    The same as from a model that has the edit in its weights (`written`), which is never made.
    Raises ValueError for what are no prompts, no edits `[row]`, or a change that does not fit the model, and TypeError
    for what is no change.

    >>> change = ul.edits.RankOne((0,), torch.ones(1, 2, 32), torch.ones(1, 2, 16))  # two edits
    >>> ul.edits.logits(run.model, change, run.corpus.prompts()[:3], edit=[0, 1, 0]).shape[0]
    3
    """
    prompts = as_prompts(model, prompts)
    check_still(model, "the model")
    check_change(model, change)
    return _logits(model, change, prompts, checked_edits(edit, len(change), len(prompts)))


@torch.no_grad()
def _logits(model: Model, change: Change, prompts: Prompts, edit: Edits) -> Float[Tensor, "row vocab"]:
    found, ran = [], []
    for rows in batches(model, prompts, 0 if edit is None else change.numbers_a_row()):
        part = prompts.part(rows)
        fwd_hooks = change.hooks(model, part, None if edit is None else edit[rows])
        found.append(logits_of_table(model, part.tokens.to(device_of(model)), fwd_hooks).cpu())
        ran.append(rows)
    return in_order(found, ran)


def checked_edits(
    edit: ArrayLike | Tensor | None, n: int, n_rows: int, name: str = "edit", where: str = "the change"
) -> Edits:
    """Numbers of edits, one for each row. Raises ValueError for anything else."""
    if edit is None:
        return None
    given = numbers(edit, n, name, where)
    if len(given) != n_rows:
        raise ValueError(f"{name} has {len(given)} entries for {n_rows} prompts; allowed: one for each, or None.")
    return torch.from_numpy(given)


def batches(model: Model, prompts: Prompts, numbers_a_row: int = 0) -> Iterator[Int[Tensor, " chosen"]]:
    """Rows of one length that run together, as many as memory allows where each has so many numbers of its own."""
    room = SHARE_OF_FREE_MEMORY * free_bytes(device_of(model)) / (FLOAT * max(1, 4 * numbers_a_row))
    for same in by_length(prompts):
        at_once = rows_at_a_time(model, int(prompts.lengths[same[0]]), 1, ())
        yield from same.split(max(1, min(at_once, int(room))))


def run_until(model: Model, prompts: Prompts, fwd_hooks: list[Hook]) -> None:
    """Run rows of one length up to the last block with a hook: what lies behind, vocabularies above all, is dear."""
    last = max(block_of(name) for name, _ in fwd_hooks)
    model.run_with_hooks(prompts.tokens.to(device_of(model)), fwd_hooks=fwd_hooks, stop_at_layer=last + 1)


@torch.no_grad()
def read(
    model: Model, prompts: Prompts, name: str, role: str, change: Change | None = None, edit: Edits = None
) -> Float[Tensor, "row d"]:
    """Activations where a role stands, in double precision, under edits if any are given."""
    found, ran = [], []
    for rows in batches(model, prompts, change.numbers_a_row() if change is not None and edit is not None else 0):
        part, kept = prompts.part(rows), {}
        under = [] if change is None else change.hooks(model, part, None if edit is None else edit[rows])
        run_until(model, part, [*under, (name, partial(keep, kept=kept))])
        found.append(kept["key"][part.at(role)].double().cpu())
        ran.append(rows)
    return in_order(found, ran)


# --- in the weights ------------------------------------------------------------------------------------------


@torch.no_grad()
def written(model: nn.Module, change: RankOne | Dense) -> nn.Module:
    """A copy of a model with all edits of a change in its weights, rounded to their precision.

    Raises TypeError for a change of states, which is in no weight, and ValueError for one that does not fit the model,
    and for a model whose copies do not compute with their own weights.

    >>> change = ul.edits.RankOne((0,), torch.ones(1, 2, 32), torch.ones(1, 2, 16))
    >>> edited = ul.edits.written(run.model, change)
    >>> (edited.blocks[0].mlp.W_out - run.model.blocks[0].mlp.W_out).mean().item()
    2.0
    """
    if isinstance(change, Shift):
        raise TypeError("change is a Shift, which is in no weight; allowed: RankOne, Dense.")
    # bridges keep what they computed last, which can be copied if it has no gradient; the check runs them
    check_change(model, change)
    edited = copy.deepcopy(model)
    for block, added in zip(change.blocks, change.together(), strict=True):
        weight = output_weight(edited, block)
        due = weight + added.to(weight)
        weight.fill_(torch.nan)
        said = edited.run_with_hooks(torch.zeros((1, 1), dtype=torch.long, device=device_of(model)))
        if not said.isnan().any():
            raise ValueError(
                f"copies of the model do not compute with block {block}'s weights of their own, so that an edit would "
                "change nothing; allowed: `edits.logits`, which runs the model itself."
            )
        weight.copy_(due)
    return edited


def cosines(a: Change, b: Change) -> Float[Tensor, " edit"]:
    """Cosine between the changes that edit i of `a` and edit i of `b` make, over all their blocks; nan for none at all.

    Raises ValueError for changes of two kinds, of other places or widths, or of unequal number.

    >>> reads, writes = torch.eye(2, 32)[None], torch.ones(1, 2, 16)
    >>> change = ul.edits.RankOne((0,), reads, writes)
    >>> ul.edits.cosines(change, ul.edits.RankOne((0,), reads.flip(1), writes)).tolist()
    [0.0, 0.0]
    """
    if type(a) is not type(b) or len(a) != len(b):
        told = [f"{type(each).__name__} of {len(each)} edits" for each in (a, b)]
        raise ValueError(f"b is {told[1]}, a {told[0]}; allowed: as many of one kind.")
    places = [(each.block, each.role) if isinstance(each, Shift) else each.blocks for each in (a, b)]
    if places[0] != places[1]:
        raise ValueError(f"b changes {places[1]}, a {places[0]}; allowed: the same blocks and role.")
    sizes = [[list(x.shape) for x in vars(each).values() if isinstance(x, Tensor)] for each in (a, b)]
    if sizes[0] != sizes[1]:
        raise ValueError(f"b has tables of sizes {sizes[1]}, a {sizes[0]}; allowed: changes of one model.")
    return a.dot(b) / (a.dot(a) * b.dot(b)).sqrt()

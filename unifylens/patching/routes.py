"""Patching by path: what one component sends, as one later component reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from unifylens.patching import hooks
from unifylens.patching.edits import Edit, experiment, read_activations
from unifylens.patching.positions import Batch, Place
from unifylens.patching.prompts import as_prompts, sources_of
from unifylens.patching.stream import Hook, Model, Rows, has_hook, resid_post
from unifylens.patching.tensors import at_least_single, is_whole


@dataclass(frozen=True)
class Component:
    """A head, an MLP (no head), or the logits (no block)."""

    name: str
    block: int | None = None
    head: int | None = None

    @property
    def output(self) -> str:
        """Hook name of what it writes."""
        return _output(self.block, self.head)

    @property
    def enters(self) -> str:
        """Hook name of the residual stream that it reads."""
        return f"blocks.{self.block}.hook_resid_{'mid' if self.head is None else 'pre'}"

    def reads(self, sender: Component) -> bool:
        """Whether it comes after the sender: in a later block, or as the MLP of the same one."""
        if self.block is None or self.block > sender.block:
            return True
        return self.block == sender.block and self.head is None and sender.head is not None


LOGITS = Component("logits")


def components(model: Model) -> list[Component]:
    """Heads and MLPs of a model, in the order in which they write: `L0H0`, `L0H1`, `MLP0`, `L1H0`, ..."""
    cfg, parts = model.cfg, []
    for block in range(cfg.n_layers):
        parts += [Component(f"L{block}H{head}", block, head) for head in range(cfg.n_heads)]
        if has_hook(model, _output(block, None)):
            parts.append(Component(f"MLP{block}", block))
    return parts


def by_path(
    model: Model,
    target: Rows,
    source: Rows | Sequence[Rows],
    metrics: Mapping[str, Callable],
    *,
    position: int | None = None,
    role: str | None = None,
    receivers: str | Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch one path at a time: what a head or MLP sends, as one later head or MLP or the logits read it.

    It is sent at a position (None: the last), or where a `role` stands in each row.

    The receiver alone sees the sender's output of the source run, and everything else as it was (path patching, Wang et
    al. 2022, arXiv 2211.00593); what the receiver then writes goes on to all that follow. Receiver `logits` is the
    direct effect. Columns: sender, receiver (`L0H3`, `MLP1`, `logits`), the metrics. `receivers` are names (None:
    all).

    Raises ValueError for models whose outputs do not simply add to the residual stream (norms after attention or MLP,
    as in Gemma 2; MLPs beside attention), an unknown receiver, a position that a prompt lacks, and one with a role.
    """
    if not _outputs_add_up(model):
        raise ValueError(
            "by_path needs outputs that add to the residual stream one after the other; this model normalises or "
            "scales them, or runs attention and MLP side by side. Use by_head and by_component."
        )
    if role is not None and position is not None:
        raise ValueError(f"role={role!r} and position={position!r} are given; allowed: one of them.")
    position = -1 if position is None else position
    if not is_whole(position):
        raise ValueError(f"position={position!r}; allowed: one whole number.")
    sender = options.get("source_model")
    target, sources = as_prompts(model, target, "target"), sources_of(model if sender is None else sender, source)
    shortest = min(int(prompts.lengths.min()) for prompts in (target, *sources))
    if role is None and not -shortest <= position < shortest:
        raise ValueError(f"position={position}: the prompts have {shortest}; allowed: {-shortest} to {shortest - 1}.")
    place = Place(int(position)) if role is None else Place(role=role)
    senders = components(model)
    known = [*(component.name for component in senders), LOGITS.name]
    wanted = known if receivers is None else [receivers] if isinstance(receivers, str) else list(receivers)
    if strange := [name for name in wanted if name not in known]:
        raise ValueError(f"receivers holds {strange[0]!r}; allowed: {', '.join(known)}.")
    edits = [
        _path(model, sender, receiver, place)
        for sender in senders
        for receiver in [*senders, LOGITS]
        if receiver.name in wanted and receiver.reads(sender)
    ]
    return experiment(model, target, edits, metrics, source=sources, **options)


def _path(model: Model, sender: Component, receiver: Component, place: Place) -> Edit:
    """The edit that lets one receiver alone read the source run's output of one sender."""

    def at(batch: Batch) -> list[Hook]:
        (own,) = read_activations(model, [batch.target], [sender.output])
        where = place.source(batch, sender.output)
        here, there = (one_a_row(x, where["positions"]) for x in (own[sender.output], where["source"]))
        sent = there - here
        if sender.head is not None:
            output = model.blocks[sender.block].attn.W_O[sender.head]
            sent = at_least_single(sent[:, sender.head]) @ at_least_single(output)
        add = partial(hooks.steer, vector=sent, positions=where["positions"])
        if receiver is LOGITS:
            return [(resid_post(model.cfg.n_layers - 1), add)]
        answer: dict[str, Tensor] = {}
        keep = (receiver.output, lambda x, hook: answer.update({receiver.output: x.clone()}))
        model.run_with_hooks(batch.target, fwd_hooks=[(receiver.enters, add), keep], return_type=None)
        return [(receiver.output, partial(hooks.patch, source=answer[receiver.output], heads=receiver.head))]

    def one_a_row(x: Tensor, positions: hooks.Positions) -> Tensor:
        return x[positions] if isinstance(positions, Tensor) else x[:, positions]

    labels = {"sender": sender.name, "receiver": receiver.name}
    return Edit(labels, at, (sender.output,), place=place)


def _output(block: int, head: int | None) -> str:
    return f"blocks.{block}.hook_mlp_out" if head is None else f"blocks.{block}.attn.hook_z"


@torch.no_grad()
def _outputs_add_up(model: Model) -> bool:
    """Whether every block adds its heads' outputs, then its MLP's, to the residual stream: tried on two tokens."""
    tokens = torch.arange(2, device=next(model.parameters()).device)[None]
    _, cache = model.run_with_cache(tokens, return_type=None)

    def adds(before: str, output: Tensor, after: str) -> bool:
        off = cache[after] - cache[before] - output
        return bool(off.abs().max() <= torch.finfo(off.dtype).eps ** 0.5 * cache[after].abs().max())

    for block in range(model.cfg.n_layers):
        before, between, after = (f"blocks.{block}.hook_resid_{name}" for name in ("pre", "mid", "post"))
        attention, mlp = model.blocks[block].attn, _output(block, None)
        heads = torch.einsum("...hd,hdm->...m", cache[_output(block, 0)], attention.W_O)
        written = heads if attention.b_O is None else heads + attention.b_O
        if not has_hook(model, mlp):
            steps = [(before, written, after)]
        elif between in model.hook_dict:
            steps = [(before, written, between), (between, cache[mlp], after)]
        else:
            return False
        if not all(adds(*step) for step in steps):
            return False
    return True

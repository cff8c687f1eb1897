"""Patching by path: what one component sends, as one later component reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from unifylens.patching import hooks
from unifylens.patching.edits import Batch, Edit, experiment, read_activations
from unifylens.patching.stream import Hook, Model, Tokens, has_hook


def by_path(
    model: Model,
    target: Tokens,
    source: Tokens,
    metrics: Mapping[str, Callable],
    *,
    position: int = -1,
    receivers: Sequence[str] | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch one path at a time: what a head or MLP sends at a position, as one later head or MLP or the logits read it.

    The receiver alone sees the sender's output of the source run, and everything else as it was (path patching, Wang et
    al. 2022, arXiv 2211.00593); what the receiver then writes goes on to all that follow. Receiver `logits` is the
    direct effect. Columns: sender, receiver (`L0H3`, `MLP1`, `logits`), the metrics. `receivers` are names (None:
    all).

    Raises ValueError for models whose outputs do not simply add to the residual stream (norms after attention or MLP,
    as in Gemma 2; MLPs beside attention), an unknown receiver, and a position that a prompt lacks.
    """
    if not _outputs_add_up(model):
        raise ValueError(
            "by_path needs outputs that add to the residual stream one after the other; this model normalises or "
            "scales them, or runs attention and MLP side by side. Use by_head and by_component."
        )
    shortest = min(tokens.shape[-1] for tokens in (target, source))
    if not -shortest <= position < shortest:
        raise ValueError(f"position={position}: the prompts have {shortest}; allowed: {-shortest} to {shortest - 1}.")
    cfg = model.cfg
    heads = [(f"L{block}H{head}", block, head) for block in range(cfg.n_layers) for head in range(cfg.n_heads)]
    mlps = [(f"MLP{b}", b, None) for b in range(cfg.n_layers) if has_hook(model, _output(b, None))]
    components = sorted(heads + mlps, key=lambda c: (c[1], c[2] is None))
    known = [*(name for name, _, _ in components), "logits"]
    wanted = known if receivers is None else list(receivers)
    if strange := [name for name in wanted if name not in known]:
        raise ValueError(f"receivers holds {strange[0]!r}; allowed: {', '.join(known)}.")

    def edit(sender: tuple, receiver: tuple | None) -> Edit:
        name, block, head = sender
        reads = _output(block, head)
        labels = {"sender": name, "receiver": "logits" if receiver is None else receiver[0]}

        def at(batch: Batch) -> list[Hook]:
            here = read_activations(model, [batch.target], [reads])[reads][:, position]
            sent = batch.source[reads][:, position] - here
            if head is not None:
                sent = sent[:, head] @ model.blocks[block].attn.W_O[head]
            add = partial(hooks.steer, vector=sent, positions=position)
            if receiver is None:
                return [(f"blocks.{cfg.n_layers - 1}.hook_resid_post", add)]
            _, to_block, to_head = receiver
            enters = f"blocks.{to_block}.hook_resid_{'mid' if to_head is None else 'pre'}"
            written = _output(to_block, to_head)
            answer: dict[str, Tensor] = {}
            model.run_with_hooks(
                batch.target,
                fwd_hooks=[(enters, add), (written, lambda x, hook: answer.update({written: x.clone()}))],
                return_type=None,
            )
            return [(written, partial(hooks.patch, source=answer[written], heads=to_head))]

        return Edit(labels, at, (reads,))

    edits = [
        edit(sender, receiver)
        for i, sender in enumerate(components)
        for receiver in [*(r for r in components[i + 1 :] if r[1] > sender[1] or r[2] is None), None]
        if ("logits" if receiver is None else receiver[0]) in wanted
    ]
    return experiment(model, target, edits, metrics, source=source, **options)


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

"""Patching by place: layer and position, head, component, group of neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from unifylens.arguments import chosen
from unifylens.patching import hooks
from unifylens.patching.edits import Batch, Edit, experiment, of_batch, patch_at, rows_of
from unifylens.patching.stream import Hook, Model, Tokens, as_tokens, has_hook, prompts_of, residual
from unifylens.patching.subspaces import Subspace, neurons


def by_layer_and_position(
    model: Model,
    target: Tokens,
    source: Tokens | Sequence[Tokens],
    metrics: Mapping[str, Callable],
    *,
    layers: int | Sequence[int] | None = None,
    positions: int | Sequence[int] | None = None,
    subspace: Subspace | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch the residual stream at each layer and position. Columns: layer, position, the metrics.

    Layers are numbered as in `unifylens.states`: 0 is the embedding, k is after block k - 1 (None: all). `positions`
    default to all, which needs prompts of one length; `options` as in `experiment`.

    >>> prompts, metrics = run.corpus.prompts(), {"as source": ul.patching.answered(run.corpus.answers[8:16])}
    >>> table = ul.patching.by_layer_and_position(run.model, prompts[:8], prompts[8:16], metrics, progress=False)
    >>> len(table), list(table)
    (9, ['layer', 'position', 'as source'])
    """
    target, sources = as_tokens(target), prompts_of(source)
    lengths = {tokens.shape[-1] for tokens in (target, *sources)}
    if positions is None and len(lengths) > 1:
        raise ValueError(
            f"prompts of source and target have lengths {sorted(lengths)}; name positions counted from the end of "
            "each, such as positions=[-1], or pad to one length on the left."
        )
    n_layers = model.cfg.n_layers
    layers = range(n_layers + 1) if layers is None else chosen(layers, n_layers + 1, "layers", "the model").tolist()
    n = target.shape[-1]
    positions = range(n) if positions is None else chosen(positions, n, "positions", "target", from_end=True).tolist()
    edits = [
        patch_at(residual(model, layer), {"layer": layer, "position": position}, positions=position, subspace=subspace)
        for layer in layers
        for position in positions
    ]
    return experiment(model, target, edits, metrics, source=sources, **options)


def by_head(
    model: Model,
    target: Tokens,
    source: Tokens | Sequence[Tokens],
    metrics: Mapping[str, Callable],
    *,
    positions: hooks.Positions = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch each attention head's result (before W_O). Columns: block, head, the metrics.

    >>> prompts, metrics = run.corpus.prompts(), {"as source": ul.patching.answered(run.corpus.answers[8:16])}
    >>> table = ul.patching.by_head(run.model, prompts[:8], prompts[8:16], metrics, positions=-1, progress=False)
    >>> len(table), list(table)
    (4, ['block', 'head', 'as source'])
    """
    edits = [
        patch_at(f"blocks.{block}.attn.hook_z", {"block": block, "head": head}, heads=head, positions=positions)
        for block in range(model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
    ]
    return experiment(model, target, edits, metrics, source=source, **options)


def by_component(
    model: Model,
    target: Tokens,
    source: Tokens | Sequence[Tokens],
    metrics: Mapping[str, Callable],
    *,
    positions: hooks.Positions = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch each block's attention and MLP output. Columns: block, component, the metrics."""
    edits = [
        patch_at(f"blocks.{block}.hook_{name}_out", {"block": block, "component": component}, positions=positions)
        for block in range(model.cfg.n_layers)
        for name, component in (("attn", "attention"), ("mlp", "MLP"))
        if has_hook(model, f"blocks.{block}.hook_{name}_out")
    ]
    return experiment(model, target, edits, metrics, source=source, **options)


def by_neurons(
    model: Model,
    target: Tokens,
    source: Tokens | Sequence[Tokens],
    metrics: Mapping[str, Callable],
    *,
    groups: Mapping[str, Mapping[int, Sequence[int]]],
    positions: hooks.Positions = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch groups of MLP neurons: `groups[name][block]` lists them. Columns: group, the metrics."""
    positions = hooks.mask_or_numbers(positions)

    def edit(group: str, members: Mapping[int, Sequence[int]]) -> Edit:
        parts = {f"blocks.{b}.mlp.hook_post": neurons(ns, model.cfg.d_mlp) for b, ns in members.items()}

        def at(batch: Batch) -> list[Hook]:
            here = of_batch(positions, batch)
            return [
                (name, partial(hooks.patch, source=batch.source[name], positions=here, subspace=part))
                for name, part in parts.items()
            ]

        return Edit({"group": group}, at, tuple(parts), rows_of(positions))

    edits = [edit(group, members) for group, members in groups.items()]
    return experiment(model, target, edits, metrics, source=source, **options)

"""Patching by place: layer and position or role, head, component, group of neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch

from unifylens.arguments import chosen
from unifylens.patching import hooks
from unifylens.patching.edits import Edit, experiment, patch_at, read_activations
from unifylens.patching.positions import Batch, Place
from unifylens.patching.prompts import LAST, Prompts, as_prompts, sources_of
from unifylens.patching.stream import Hook, Model, Rows, check_names, has_hook, residual
from unifylens.patching.subspaces import Subspace, neurons


def by_layer_and_position(
    model: Model,
    target: Rows,
    source: Rows | Sequence[Rows],
    metrics: Mapping[str, Callable],
    *,
    layers: int | Sequence[int] | None = None,
    positions: int | Sequence[int] | None = None,
    subspace: Subspace | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch the residual stream at each layer and position. Columns: layer, position, the metrics.

    Layers are numbered as in `unifylens.states`: 0 is the embedding, k is after block k - 1 (None: all). `positions`
    default to all, which needs prompts of one length; they count in each prompt on its own, from the end if negative.
    `options` as in `experiment`.

    >>> prompts, metrics = run.corpus.prompts(), {"as source": ul.patching.answered(run.corpus.answers[8:16])}
    >>> table = ul.patching.by_layer_and_position(run.model, prompts[:8], prompts[8:16], metrics, progress=False)
    >>> len(table), list(table)
    (9, ['layer', 'position', 'as source'])
    """
    target, sources = _prompts(model, target, source, options)
    lengths = sorted({length for prompts in (target, *sources) for length in prompts.lengths.tolist()})
    if positions is None and len(lengths) > 1:
        raise ValueError(
            f"prompts of source and target have lengths {lengths}; name positions counted from the end of each, such "
            "as positions=[-1], or patch by role (by_layer_and_role)."
        )
    shortest = int(target.lengths.min())
    whose = "target" if target.length else "the shortest prompt of target"
    # of rows with padding before them only numbers from the end mean one place
    first = shortest if positions is None and any(prompts.skipped.any() for prompts in (target, *sources)) else 0
    positions = range(shortest) if positions is None else chosen(positions, shortest, "positions", whose, from_end=True)
    edits = [
        patch_at(name, {"layer": layer, "position": position}, positions=position - first, subspace=subspace)
        for layer, name in _layers(model, layers)
        for position in map(int, positions)
    ]
    return experiment(model, target, edits, metrics, source=sources, **options)


def by_layer_and_role(
    model: Model,
    target: Prompts,
    source: Prompts | Sequence[Prompts],
    metrics: Mapping[str, Callable],
    *,
    roles: str | Sequence[str] | None = None,
    layers: int | Sequence[int] | None = None,
    subspace: Subspace | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch the residual stream at each layer where a role stands in each prompt. Columns: layer, role, the metrics.

    A role of the source is put where the same role stands in the target: of prompts of any length and order of words.
    `roles` default to all that the target has (`last` where no other role stands there); layers and `options` as in
    `by_layer_and_position`. Raises ValueError, naming role and row, where target or a source lacks one.

    >>> pairs = ul.interchange.pairs(run.corpus, n_pairs=4)
    >>> target, source = pairs.with_roles()
    >>> metrics = {"as source": pairs.shares()["source object, target language"]}
    >>> table = ul.patching.by_layer_and_role(run.model, target, source, metrics, progress=False)
    >>> table["role"].unique().tolist()
    ['subject', 'relation', 'answer']
    """
    target, sources = _prompts(model, target, source, options)
    if roles is None:
        roles = _different(target, sources)
        if roles == [LAST]:
            raise ValueError(
                "target has no role but 'last'; allowed: Prompts(tokens, roles={'subject': positions}), or "
                "roles=['last']."
            )
    edits = [
        patch_at(name, {"layer": layer, "role": role}, role=role, subspace=subspace)
        for layer, name in _layers(model, layers)
        for role in ([roles] if isinstance(roles, str) else roles)
    ]
    return experiment(model, target, edits, metrics, source=sources, **options)


def _prompts(model: Model, target: Rows, source: Rows | Sequence[Rows], options: Mapping) -> tuple[Prompts, list]:
    sender = options.get("source_model")
    return as_prompts(model, target, "target"), sources_of(model if sender is None else sender, source)


def _layers(model: Model, layers: int | Sequence[int] | None) -> list[tuple[int, str]]:
    """Numbers and hook names of some layers, or all."""
    n = model.cfg.n_layers + 1
    given = range(n) if layers is None else chosen(layers, n, "layers", "the model").tolist()
    return [(layer, residual(model, layer)) for layer in given]


def _different(target: Prompts, sources: Sequence[Prompts]) -> list[str]:
    """Roles of the target, but for `last` where another stands in the same place everywhere."""
    every = (target, *sources)
    ends = [
        role
        for role in target.roles
        if all(role in prompts.roles and (prompts.roles[role] == prompts.roles[LAST]).all() for prompts in every)
    ]
    return [role for role in target.roles if role != LAST or ends == [LAST]]


def by_head(
    model: Model,
    target: Rows,
    source: Rows | Sequence[Rows],
    metrics: Mapping[str, Callable],
    *,
    positions: hooks.Positions = None,
    role: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch each attention head's result (before W_O), at some positions or a role. Columns: block, head, the metrics.

    >>> prompts, metrics = run.corpus.prompts(), {"as source": ul.patching.answered(run.corpus.answers[8:16])}
    >>> table = ul.patching.by_head(run.model, prompts[:8], prompts[8:16], metrics, positions=-1, progress=False)
    >>> len(table), list(table)
    (4, ['block', 'head', 'as source'])
    """
    where = {"positions": positions, "role": role}
    edits = [
        patch_at(f"blocks.{block}.attn.hook_z", {"block": block, "head": head}, heads=head, **where)
        for block in range(model.cfg.n_layers)
        for head in range(model.cfg.n_heads)
    ]
    return experiment(model, target, edits, metrics, source=source, **options)


def by_component(
    model: Model,
    target: Rows,
    source: Rows | Sequence[Rows],
    metrics: Mapping[str, Callable],
    *,
    positions: hooks.Positions = None,
    role: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch each block's attention and MLP output. Columns: block, component, the metrics."""
    where = {"positions": positions, "role": role}
    edits = [
        patch_at(f"blocks.{block}.hook_{name}_out", {"block": block, "component": component}, **where)
        for block in range(model.cfg.n_layers)
        for name, component in (("attn", "attention"), ("mlp", "MLP"))
        if has_hook(model, f"blocks.{block}.hook_{name}_out")
    ]
    return experiment(model, target, edits, metrics, source=source, **options)


def _neurons_of(block: int) -> str:
    return f"blocks.{block}.mlp.hook_post"


@torch.no_grad()
def _widths(model: Model, blocks: Sequence[int]) -> dict[str, int]:
    """Neurons of some blocks by hook name, as they run: not every config says how many there are."""
    names = [_neurons_of(block) for block in blocks]
    check_names(set(model.hook_dict), names)
    token = torch.zeros(1, 1, dtype=torch.long, device=next(model.parameters()).device)
    (cache,) = read_activations(model, [token], names) or [{}]
    return {name: state.shape[-1] for name, state in cache.items()}


def by_neurons(
    model: Model,
    target: Rows,
    source: Rows | Sequence[Rows],
    metrics: Mapping[str, Callable],
    *,
    groups: Mapping[str, Mapping[int, Sequence[int]]],
    positions: hooks.Positions = None,
    role: str | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch groups of MLP neurons: `groups[name][block]` lists them. Columns: group, the metrics."""
    place = Place(positions, role)
    widths = _widths(model, sorted({block for members in groups.values() for block in members}))

    def edit(group: str, members: Mapping[int, Sequence[int]]) -> Edit:
        parts = {_neurons_of(block): neurons(ns, widths[_neurons_of(block)]) for block, ns in members.items()}

        def at(batch: Batch) -> list[Hook]:
            return [
                (name, partial(hooks.patch, **place.source(batch, name), subspace=part)) for name, part in parts.items()
            ]

        return Edit({"group": group}, at, tuple(parts), place.by_row(), place)

    edits = [edit(group, members) for group, members in groups.items()]
    return experiment(model, target, edits, metrics, source=source, **options)

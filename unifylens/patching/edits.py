"""Patching experiments on any model with TransformerLens hook names: one core, and named partials on top.

Every experiment runs `target` prompts, edits activations while they run (mostly by putting in those of `source`
prompts, row by row), and measures the logits at the last position. Prompts are token IDs: a table `[row, pos]`, rows of
any length, or `Prompts`, which know where roles stand. Rows of one length run together, so nothing is padded; what a
table is padded with (by the model's tokenizer, or as its `cfg` says) is taken off first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from unifylens.arguments import plain
from unifylens.hardware import FLOAT, free_bytes
from unifylens.patching import hooks
from unifylens.patching.metrics import Metric
from unifylens.patching.positions import Batch, Place
from unifylens.patching.prompts import Prompts, as_prompts, by_length, in_order, sources_of
from unifylens.patching.stream import (
    Hook,
    Model,
    Rows,
    can_resume,
    check_edits,
    check_names,
    check_still,
    check_switches,
    logits_of_table,
    resid_post,
)
from unifylens.patching.tensors import as_tensor, is_whole

MOST_ROWS = 512
"""Rows run at a time where memory allows: four times as many gain 10 to 20 % on a CPU (benchmarks/patching.py)."""
SHARE_OF_FREE_MEMORY = 0.5


# --- the core ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Edit:
    """One thing to change while a model runs; a row of the result. Raises TypeError for labels that are no dict."""

    labels: Mapping[str, Any]
    """What the row is called: `{"layer": 1, "position": 2}`."""
    hooks: Callable[[Batch], Sequence[Hook]]
    """Hook names and functions `fn(activation, hook)` for a batch; none leaves the model as it is, for comparison."""
    reads: Sequence[str] = field(default=())
    """Hook names at which it needs the source run's activations."""
    by_row: Mapping[str, int] = field(default_factory=dict)
    """Number of rows, by name, of what has one for each target prompt, such as a mask of positions."""
    place: Place | None = None
    """Where it acts, for checks before anything runs; None, for edits of one's own, says nothing."""

    def __post_init__(self) -> None:
        if not isinstance(self.labels, Mapping):
            raise TypeError(f"labels={self.labels!r}; allowed: a dict, such as {{'edit': {self.labels!r}}}.")


def patch_at(name: str, labels: Mapping[str, Any], *, role: str | None = None, **where: Any) -> Edit:
    """The edit that patches one activation; `where` as in `hooks.patch`, or where a `role` stands in each row.

    A role of the source is put where the same role stands in the target. Raises ValueError for `source_positions` with
    a role or a mask.
    """
    place = Place(where.pop("positions", None), role, where.pop("source_positions", None))

    def at(batch: Batch) -> list[Hook]:
        return [(name, partial(hooks.patch, **place.source(batch, name), **where))]

    return Edit(labels, at, (name,), place.by_row(), place)


def steer_at(
    name: str, labels: Mapping[str, Any], vector: Float[Tensor, "*row d"], *, role: str | None = None, **where: Any
) -> Edit:
    """The edit that adds a vector, `[d]` or one for each row `[row, d]`; `where` as in `hooks.steer`, or at a `role`.

    Raises ValueError for a vector of another shape, `experiment` for another number of rows than it has prompts.
    """
    vector, place = as_tensor(vector), Place(where.pop("positions", None), role)
    if vector.ndim not in (1, 2):
        raise ValueError(f"vector has shape {list(vector.shape)}; allowed: [d], or one for each row [row, d].")

    def at(batch: Batch) -> list[Hook]:
        added = vector if vector.ndim == 1 else vector[batch.rows]
        return [(name, partial(hooks.steer, vector=added, positions=place.here(batch), **where))]

    by_row = {**place.by_row(), **({"vector": len(vector)} if vector.ndim == 2 else {})}
    return Edit(labels, at, by_row=by_row, place=place)


UNEDITED = Edit({}, lambda batch: [])
"""Changes nothing: what the model says by itself."""


@torch.no_grad()
def experiment(
    model: Model,
    target: Rows,
    edits: Edit | Iterable[Edit],
    metrics: Mapping[str, Callable[[Float[Tensor, "row vocab"]], float]],
    *,
    source: Rows | Sequence[Rows] | None = None,
    source_model: Model | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run `target` prompts under one or several edits: a row each, its labels and the metrics, in the edits' order.

    Row i of `target` is patched from row i of `source`; of several sources, such as one fact in several languages, from
    their mean (of unequal lengths, at positions from the end or at roles). They run in `source_model` (None: in
    `model`), of the same shape and vocabulary, such as another checkpoint. A metric maps the logits at the last
    position to a number; a `Metric` is computed batch by batch, for any other function all logits are kept.
    `batch_size` rows are run at a time (None: what memory allows).

    Raises ValueError, naming what does not fit: prompts, metrics, models and roles before anything runs, a place or a
    hook that never runs when it is edited, a function that gives no number at the end. No hook stays behind after an
    error.

    >>> prompts, metrics = run.corpus.prompts()[:8], {"right": ul.patching.answered(run.corpus.answers[:8])}
    >>> without = ul.patching.Edit({"edit": "no MLP"}, lambda batch: [("blocks.0.hook_mlp_out", lambda x, hook: 0 * x)])
    >>> list(ul.patching.experiment(run.model, prompts, [without], metrics, progress=False))
    ['edit', 'right']
    """
    sender = model if source_model is None else source_model
    target, sources = as_prompts(model, target, "target"), sources_of(sender, source)
    edits = edits_of(edits)
    reads = sorted({name for edit in edits for name in edit.reads})
    _check(model, sender, target, sources, edits, metrics, reads)
    if clashes := {label for edit in edits for label in edit.labels} & set(metrics):
        raise ValueError(f"metrics has {min(clashes)!r}, which labels an edit, too; name the metric otherwise.")
    known = set(model.hook_dict)
    check_names(known, reads)
    check_switches(sender, reads)
    if batch_size is not None and (not is_whole(batch_size) or batch_size < 1):
        raise ValueError(
            f"batch_size={batch_size!r}: allowed is a whole number, 1 or more, or None for what memory allows."
        )
    device = next(model.parameters()).device
    # reading them takes one more run of all blocks, which few edits would not make up for
    between = (
        [resid_post(block) for block in range(model.cfg.n_layers - 1)] if can_resume(model) and len(edits) > 2 else []
    )
    edited: set[str] = set()
    ran: list[Tensor] = []
    values: list[dict[str, list[Tensor]]] = [{name: [] for name in metrics} for _ in edits]
    with tqdm(total=len(target) * len(edits), desc="patching", unit="prompt", disable=not progress) as bar:
        for rows in batches(target, sources, lambda n: batch_size or rows_at_a_time(model, n, len(edits), reads)):
            prompts, of_sources = target.part(rows), [prompts.part(rows) for prompts in sources]
            runs = read_activations(sender, [prompts.tokens.to(device) for prompts in of_sources], reads)
            batch = Batch(rows, prompts.tokens.to(device), prompts, of_sources, runs)
            (residuals,) = read_activations(model, [batch.target], between) or [{}]
            for edit, columns in zip(edits, values, strict=True):
                chosen = list(edit.hooks(batch))
                new = {name for name, _ in chosen} - edited
                check_names(known, new)
                check_edits(model, new)
                edited |= new
                counted, idle = watched(chosen)
                logits = logits_of_table(model, batch.target, counted, residuals)
                refuse_idle(idle, edit)
                for name, metric in metrics.items():
                    columns[name].append(metric.at(rows, logits).cpu() if isinstance(metric, Metric) else logits.cpu())
                bar.update(len(rows))
            ran.append(rows)

    def number(name: str, parts: list[Tensor]) -> float:
        metric, whole = metrics[name], in_order(parts, ran)
        value = whole.double().mean().item() if isinstance(metric, Metric) else plain(metric(whole))
        if not isinstance(value, Real):
            shown = f"values of shape {list(np.shape(value))}" if isinstance(value, list) else repr(value)
            raise ValueError(f"metric {name!r} gave {shown}; allowed: one number, or a Metric for one a row.")
        return float(value)

    return pd.DataFrame(
        [
            {**edit.labels, **{name: number(name, columns[name]) for name in metrics}}
            for edit, columns in zip(edits, values, strict=True)
        ]
    )


def batches(
    target: Prompts, sources: Sequence[Prompts], size: Callable[[int], int]
) -> Iterator[Int[Tensor, " chosen"]]:
    """Rows that run together: of one length, and as many as `size` says for prompts of it."""
    for same in by_length(target, *sources):
        yield from same.split(int(size(int(target.lengths[same[0]]))))


def watched(fwd_hooks: Sequence[Hook]) -> tuple[list[Hook], set[tuple[int, str]]]:
    """The same hooks, and those of them, by number and name, that have not run yet."""
    idle = {(number, name) for number, (name, _) in enumerate(fwd_hooks)}

    def counted(place: tuple[int, str], function: Callable[..., Tensor]) -> Hook:
        def run(*args: Any, **kwargs: Any) -> Tensor:
            idle.discard(place)
            return function(*args, **kwargs)

        return place[1], run

    return [counted((number, name), function) for number, (name, function) in enumerate(fwd_hooks)], idle


def refuse_idle(idle: set[tuple[int, str]], edit: Edit) -> None:
    """Raise ValueError for a hook that has not run."""
    if idle:
        labels = f" {dict(edit.labels)}" if edit.labels else ""
        raise ValueError(
            f"the edit{labels} at {min(idle)[1]} did nothing, as the model never runs that hook; allowed: hooks that a "
            "run's cache holds (model.run_with_cache)."
        )


def read_activations(model: Model, sources: Sequence[Tensor], names: Sequence[str]) -> list[dict[str, Tensor]]:
    """Activations at some hooks, of each source; nothing where there are no names."""
    if not names:
        return []
    runs = []
    for tokens in sources:
        cache = model.run_with_cache(tokens, names_filter=list(names), return_type=None)[1]
        runs.append({name: hooks.lookup(cache, name) for name in names})
    return runs


def rows_at_a_time(model: Model, n_positions: int, n_edits: int, reads: Sequence[str]) -> int:
    """Rows of a batch that fit into half of the free memory, at most `MOST_ROWS`."""
    cfg = model.cfg
    heads = cfg.n_heads * n_positions
    d_mlp = getattr(cfg, "d_mlp", None) or 4 * cfg.d_model
    running = n_positions * ((10 + cfg.n_layers) * cfg.d_model + 3 * d_mlp + 4 * heads) + 3 * cfg.d_vocab
    read = len(reads) * n_positions * max(cfg.d_model, d_mlp if any("mlp" in name for name in reads) else 0, heads)
    fits = SHARE_OF_FREE_MEMORY * free_bytes(next(model.parameters()).device) / (FLOAT * (running + read))
    return max(1, min(MOST_ROWS, int(fits)))


# --- names and checks ----------------------------------------------------------------------------------------


def edits_of(given: Edit | Iterable[Edit]) -> list[Edit]:
    """One edit or several as a list. Raises ValueError for anything else."""
    edits = [given] if isinstance(given, Edit) or not isinstance(given, Iterable) else list(given)
    if strange := [edit for edit in edits if not isinstance(edit, Edit)]:
        raise ValueError(f"edits holds a {type(strange[0]).__name__}; allowed: Edit, one or several.")
    return edits


def _check(
    model: Model,
    sender: Model,
    target: Prompts,
    sources: Sequence[Prompts],
    edits: Sequence[Edit],
    metrics: Mapping[str, Callable],
    reads: Sequence[str],
) -> None:
    if not isinstance(metrics, Mapping):
        raise ValueError(f"metrics is a {type(metrics).__name__}; allowed: a dict of them by name.")
    for field_name, value in (("edits", edits), ("metrics", metrics)):
        if not len(value):
            raise ValueError(f"{field_name} is empty; allowed: at least one.")
    check_still(model, "the model")
    if sender is not model:
        check_still(sender, "source_model")
    if reads and not sources:
        raise ValueError(f"source=None, but the edits read the source run at {reads[0]}; give its prompts.")
    for field_name in ("d_vocab", "d_model", "n_layers"):
        ours, theirs = getattr(model.cfg, field_name), getattr(sender.cfg, field_name)
        if ours != theirs:
            raise ValueError(
                f"source_model has {field_name}={theirs}, the model {ours}; they must be equal to be patched."
            )
    for i, prompts in enumerate(sources):
        if len(prompts) != len(target):
            raise ValueError(
                f"source {i} has {len(prompts)} prompts, target {len(target)}; row i is patched into row i."
            )
    for name, metric in metrics.items():
        if not callable(metric):
            raise ValueError(
                f"metric {name!r} is a {type(metric).__name__}; allowed: a function of logits, or a Metric."
            )
        for column in metric.columns if isinstance(metric, Metric) else ():
            if len(column) != len(target):
                raise ValueError(f"metric {name!r} was made for {len(column)} rows; target has {len(target)}.")
    for name, n in (item for edit in edits for item in edit.by_row.items()):
        if n != len(target):
            raise ValueError(f"{name} has {n} rows, target {len(target)}; allowed: one for each prompt of target.")
    for edit in edits:
        if edit.place is not None:
            edit.place.check(target, sources if edit.reads else ())
        elif edit.reads:
            Place().check_mean(sources)

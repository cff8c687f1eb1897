"""Patching experiments on any model with TransformerLens hook names: one core, and named partials on top.

Every experiment runs `target` prompts, edits activations while they run (mostly by putting in those of `source`
prompts, row by row), and measures the logits at the last position. Prompts are token IDs `[row, pos]`, of one length
(pad on the left).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
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
from unifylens.patching.stream import (
    Hook,
    Model,
    Tokens,
    as_tensor,
    as_tokens,
    can_resume,
    check_edits,
    check_names,
    check_switches,
    holds_numbers,
    is_whole,
    last_logits,
    prompts_of,
    resid_post,
)

MOST_ROWS = 512
"""Rows run at a time where memory allows: four times as many gain 10 to 20 % on a CPU (benchmarks/patching.py)."""
SHARE_OF_FREE_MEMORY = 0.5


# --- the core ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Some rows of an experiment while they run."""

    rows: Int[Tensor, " chosen"]
    """Which rows of all prompts these are."""
    target: Tokens
    source: Mapping[str, Tensor]
    """The source run's activations at the hooks that the edit reads; the mean, where there are several sources."""


@dataclass(frozen=True)
class Edit:
    """One thing to change while a model runs; a row of the result."""

    labels: Mapping[str, Any]
    """What the row is called: `{"layer": 1, "position": 2}`."""
    hooks: Callable[[Batch], Sequence[Hook]]
    """Hook names and functions `fn(activation, hook)` for a batch."""
    reads: Sequence[str] = field(default=())
    """Hook names at which it needs the source run's activations."""
    by_row: Mapping[str, int] = field(default_factory=dict)
    """Number of rows, by name, of what has one for each target prompt, such as a mask of positions."""


def patch_at(name: str, labels: Mapping[str, Any], **where: Any) -> Edit:
    """The edit that patches one activation; `where` as in `hooks.patch`."""
    positions = hooks.mask_or_numbers(where.pop("positions", None))

    def at(batch: Batch) -> list[Hook]:
        here = of_batch(positions, batch)
        return [(name, partial(hooks.patch, source=batch.source[name], positions=here, **where))]

    return Edit(labels, at, (name,), rows_of(positions))


def steer_at(name: str, labels: Mapping[str, Any], vector: Float[Tensor, "*row d"], **where: Any) -> Edit:
    """The edit that adds a vector, `[d]` or one for each row `[row, d]`; `where` as in `hooks.steer`.

    Raises ValueError for a vector of another shape, `experiment` for another number of rows than it has prompts.
    """
    vector, positions = as_tensor(vector), hooks.mask_or_numbers(where.pop("positions", None))
    if vector.ndim not in (1, 2):
        raise ValueError(f"vector has shape {list(vector.shape)}; allowed: [d], or one for each row [row, d].")

    def at(batch: Batch) -> list[Hook]:
        added = vector if vector.ndim == 1 else vector[batch.rows]
        return [(name, partial(hooks.steer, vector=added, positions=of_batch(positions, batch), **where))]

    return Edit(labels, at, by_row={**rows_of(positions), **({"vector": len(vector)} if vector.ndim == 2 else {})})


def of_batch(positions: hooks.Positions, batch: Batch) -> hooks.Positions:
    """What `mask_or_numbers` gives, for a batch: of a mask of all prompts its rows, numbers as they are."""
    return positions[batch.rows] if isinstance(positions, Tensor) else positions


def rows_of(positions: hooks.Positions) -> dict[str, int]:
    """`Edit.by_row` of what `mask_or_numbers` gives: a mask has rows, numbers are the same in every row."""
    return {"positions": len(positions)} if isinstance(positions, Tensor) else {}


UNEDITED = Edit({}, lambda batch: [])
"""Changes nothing: what the model says by itself."""


@torch.no_grad()
def experiment(
    model: Model,
    target: Tokens,
    edits: Edit | Iterable[Edit],
    metrics: Mapping[str, Callable[[Float[Tensor, "row vocab"]], float]],
    *,
    source: Tokens | Sequence[Tokens] | None = None,
    source_model: Model | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run `target` prompts under one or several edits: a row each, its labels and the metrics, in the edits' order.

    Row i of `target` is patched from row i of `source`; of several sources, such as one fact in several languages, from
    their mean. They run in `source_model` (None: in `model`), of the same shape and vocabulary, such as another
    checkpoint. A metric maps the logits at the last position to a number; a `Metric` is computed batch by batch, for
    any other function all logits are kept. `batch_size` rows are run at a time (None: what memory allows).

    Raises ValueError, naming what does not fit: prompts, metrics and models before anything runs, a place when it is
    edited, a function that gives no number at the end. No hook stays behind after an error.

    >>> prompts, metrics = run.corpus.prompts()[:8], {"right": ul.patching.answered(run.corpus.answers[:8])}
    >>> without = ul.patching.Edit({"edit": "no MLP"}, lambda batch: [("blocks.0.hook_mlp_out", lambda x, hook: 0 * x)])
    >>> list(ul.patching.experiment(run.model, prompts, [without], metrics, progress=False))
    ['edit', 'right']
    """
    target, sources = as_tokens(target), prompts_of(source)
    sender = model if source_model is None else source_model
    edits = _edits(edits)
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
    size = int(batch_size or 0) or rows_at_a_time(model, target.shape[1], len(edits), reads)
    device = next(model.parameters()).device
    # reading them takes one more run of all blocks, which few edits would not make up for
    between = (
        [resid_post(block) for block in range(model.cfg.n_layers - 1)] if can_resume(model) and len(edits) > 2 else []
    )
    edited: set[str] = set()
    values: list[dict[str, list[Tensor]]] = [{name: [] for name in metrics} for _ in edits]
    with tqdm(total=len(target) * len(edits), desc="patching", unit="prompt", disable=not progress) as bar:
        for rows in torch.arange(len(target)).split(size):
            read = read_activations(sender, [tokens[rows].to(device) for tokens in sources], reads)
            batch = Batch(rows, target[rows].to(device), read)
            residuals = read_activations(model, [batch.target], between)
            for edit, columns in zip(edits, values, strict=True):
                chosen = list(edit.hooks(batch))
                new = {name for name, _ in chosen} - edited
                check_names(known, new)
                check_edits(model, new)
                edited |= new
                logits = last_logits(model, batch.target, chosen, residuals)
                for name, metric in metrics.items():
                    columns[name].append(metric.at(rows, logits).cpu() if isinstance(metric, Metric) else logits.cpu())
                bar.update(len(rows))

    def number(name: str, parts: list[Tensor]) -> float:
        metric, whole = metrics[name], torch.cat(parts)
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


def read_activations(model: Model, sources: Sequence[Tokens], names: Sequence[str]) -> dict[str, Tensor]:
    """Activations at some hooks, as their mean over the sources."""
    if not names:
        return {}
    caches = [model.run_with_cache(tokens, names_filter=list(names), return_type=None)[1] for tokens in sources]
    return hooks.mean_cache(caches, names)


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


def _edits(given: Edit | Iterable[Edit]) -> list[Edit]:
    """One edit or several as a list. Raises ValueError for anything else."""
    edits = [given] if isinstance(given, Edit) or not isinstance(given, Iterable) else list(given)
    if strange := [edit for edit in edits if not isinstance(edit, Edit)]:
        raise ValueError(f"edits holds a {type(strange[0]).__name__}; allowed: Edit, one or several.")
    return edits


def _check(
    model: Model,
    sender: Model,
    target: Tokens,
    sources: Sequence[Tokens],
    edits: Sequence[Edit],
    metrics: Mapping[str, Callable],
    reads: Sequence[str],
) -> None:
    if not isinstance(metrics, Mapping):
        raise ValueError(f"metrics is a {type(metrics).__name__}; allowed: a dict of them by name.")
    for field_name, value in (("edits", edits), ("metrics", metrics)):
        if not len(value):
            raise ValueError(f"{field_name} is empty; allowed: at least one.")
    if reads and not sources:
        raise ValueError(f"source=None, but the edits read the source run at {reads[0]}; give its prompts.")
    for field_name in ("d_vocab", "d_model", "n_layers"):
        ours, theirs = getattr(model.cfg, field_name), getattr(sender.cfg, field_name)
        if ours != theirs:
            raise ValueError(
                f"source_model has {field_name}={theirs}, the model {ours}; they must be equal to be patched."
            )
    for name, tokens in (("target", target), *((f"source {i}", tokens) for i, tokens in enumerate(sources))):
        if tokens.ndim != 2 or not tokens.numel() or not holds_numbers(tokens):
            raise ValueError(
                f"{name} is {tokens.dtype} of shape {list(tokens.shape)}; it must be token IDs [row, pos], one row and "
                "position or more."
            )
        if len(tokens) != len(target):
            raise ValueError(f"{name} has {len(tokens)} prompts, target {len(target)}; row i is patched into row i.")
        strange = tokens[(tokens < 0) | (tokens >= model.cfg.d_vocab)]
        if len(strange):
            raise ValueError(
                f"{name} holds token {int(strange[0])}; the model's vocabulary has {model.cfg.d_vocab}: were the "
                "prompts made for another model?"
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
    if len({tokens.shape for tokens in sources}) > 1:
        lengths = [tokens.shape[1] for tokens in sources]
        raise ValueError(f"the sources' prompts have lengths {lengths}; a mean over them needs one length.")

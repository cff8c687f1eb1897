"""Patching experiments on any model with TransformerLens hook names: one core, and named partials on top.

Every experiment runs `target` prompts, edits activations while they run (mostly by putting in those of `source`
prompts, row by row), and measures the logits at the last position. Prompts are token IDs `[row, pos]`, of one length
(pad on the left).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import HookedTransformer
from transformer_lens.model_bridge import TransformerBridge

from unifylens import hooks
from unifylens.memory import FLOAT, free_bytes
from unifylens.subspaces import Subspace, neurons

__all__ = [
    "UNEDITED",
    "Batch",
    "Edit",
    "Metric",
    "answered",
    "answered_among",
    "by_component",
    "by_head",
    "by_layer_and_position",
    "by_neurons",
    "by_path",
    "experiment",
    "logit_difference",
    "patch_at",
    "probability",
    "residual",
    "steer_at",
]

Model = HookedTransformer | TransformerBridge
Tokens = Int[Tensor, "row pos"]
Hook = tuple[str, Callable[..., Tensor]]

LAST_STEP = "unembed.hook_in"
MOST_ROWS = 512
"""Rows run at a time where memory allows: four times as many gain 10 to 20 % on a CPU (benchmarks/patching.py)."""
SHARE_OF_FREE_MEMORY = 0.5


# --- metrics -------------------------------------------------------------------------------------------------


class Metric:
    """A number for each row's logits, averaged: `metric(logits[row, vocab]) -> float`."""

    def __init__(self, value: Callable[..., Float[Tensor, " row"]], *columns: Tensor) -> None:
        """`value(logits, *columns)` is called with some of the rows at a time; `columns` have an entry for each row."""
        self.value = value
        self.columns = columns

    def __call__(self, logits: Float[Tensor, "row vocab"]) -> float:
        """Mean over all rows. Raises ValueError for another number of rows."""
        for column in self.columns:
            if len(column) != len(logits):
                raise ValueError(f"logits has {len(logits)} rows, but the metric was made for {len(column)}.")
        return float(self.value(logits, *self.columns).double().mean())

    def at(self, rows: Int[Tensor, " chosen"], logits: Float[Tensor, "chosen vocab"]) -> Float[Tensor, " chosen"]:
        """Values of some rows."""
        return self.value(logits, *(column[rows].to(logits.device) for column in self.columns))


def logit_difference(right: Int[Tensor, " row"], wrong: Int[Tensor, " row"]) -> Metric:
    """Logit of one token less that of another, in nats."""
    return Metric(lambda logits, r, w: _logit(logits, r) - _logit(logits, w), right, wrong)


def probability(token: Int[Tensor, " row"]) -> Metric:
    """Probability of a token, 0 to 1."""
    return Metric(lambda logits, due: _logit(logits, due).sub(logits.logsumexp(-1)).exp(), token)


def answered(token: Int[Tensor, " row"]) -> Metric:
    """Share of rows whose likeliest token is the given one."""
    return Metric(lambda logits, due: (logits.argmax(-1) == due).float(), token)


def answered_among(allowed: Bool[Tensor, "row vocab"]) -> Metric:
    """Share of rows whose likeliest token is one of those allowed there, such as any answer in one language."""
    return Metric(lambda logits, mask: mask.gather(1, logits.argmax(-1, keepdim=True))[:, 0].float(), allowed)


def _logit(logits: Float[Tensor, "row vocab"], token: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    if token.is_floating_point() or int(token.min()) < 0 or int(token.max()) >= logits.shape[-1]:
        raise ValueError(
            f"the metric's tokens are {token.dtype}, from {token.min()} to {token.max()}; allowed: token IDs from 0 to "
            f"{logits.shape[-1] - 1}."
        )
    return logits.gather(-1, token[:, None])[:, 0]


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


def patch_at(name: str, labels: Mapping[str, Any], **where: Any) -> Edit:
    """The edit that patches one activation; `where` as in `hooks.patch`."""
    return Edit(labels, lambda batch: [(name, partial(hooks.patch, source=batch.source[name], **where))], (name,))


def steer_at(name: str, labels: Mapping[str, Any], vector: Float[Tensor, "*row d"], **where: Any) -> Edit:
    """The edit that adds a vector, `[d]` or one for each row `[row, d]`; `where` as in `hooks.steer`."""

    def at(batch: Batch) -> list[Hook]:
        return [(name, partial(hooks.steer, vector=vector if vector.ndim == 1 else vector[batch.rows], **where))]

    return Edit(labels, at)


UNEDITED = Edit({}, lambda batch: [])
"""Changes nothing: what the model says by itself."""


@torch.no_grad()
def experiment(
    model: Model,
    target: Tokens,
    edits: Sequence[Edit],
    metrics: Mapping[str, Callable[[Float[Tensor, "row vocab"]], float]],
    *,
    source: Tokens | Sequence[Tokens] | None = None,
    source_model: Model | None = None,
    batch_size: int | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run `target` prompts under each edit: one row an edit, its labels and the metrics, in the edits' order.

    Row i of `target` is patched from row i of `source`; of several sources, such as one fact in several languages, from
    their mean. They run in `source_model` (None: in `model`), of the same shape and vocabulary, such as another
    checkpoint. A metric maps the logits at the last position to a number; a `Metric` is computed batch by batch, for
    any other function all logits are kept. `batch_size` rows are run at a time (None: what memory allows).

    Raises ValueError, naming what does not fit: prompts, metrics and models before anything runs, a place when it is
    edited. No hook stays behind after an error.
    """
    sources = [] if source is None else [source] if isinstance(source, Tensor) else list(source)
    sender = model if source_model is None else source_model
    reads = sorted({name for edit in edits for name in edit.reads})
    _check(model, sender, target, sources, edits, metrics, reads)
    known = set(model.hook_dict)
    check_names(known, reads)
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: allowed is 1 or more, or None for what memory allows.")
    size = batch_size or rows_at_a_time(model, target.shape[1], len(edits), reads)
    device = next(model.parameters()).device
    # reading them takes one more run of all blocks, which few edits would not make up for
    between = [_after(block) for block in range(model.cfg.n_layers - 1)] if _resumes(model) and len(edits) > 2 else []
    values: list[dict[str, list[Tensor]]] = [{name: [] for name in metrics} for _ in edits]
    with tqdm(total=len(target) * len(edits), desc="patching", unit="prompt", disable=not progress) as bar:
        for rows in torch.arange(len(target)).split(size):
            read = _read(sender, [tokens[rows].to(device) for tokens in sources], reads)
            batch = Batch(rows, target[rows].to(device), read)
            residuals = _read(model, [batch.target], between)
            for edit, found in zip(edits, values, strict=True):
                chosen = list(edit.hooks(batch))
                check_names(known, [name for name, _ in chosen])
                logits = last_logits(model, batch.target, chosen, residuals)
                for name, metric in metrics.items():
                    found[name].append(metric.at(rows, logits).cpu() if isinstance(metric, Metric) else logits.cpu())
                bar.update(len(rows))

    def number(metric: Callable, parts: list[Tensor]) -> float:
        whole = torch.cat(parts)
        return float(whole.double().mean()) if isinstance(metric, Metric) else float(metric(whole))

    return pd.DataFrame(
        [
            {**edit.labels, **{name: number(metric, found[name]) for name, metric in metrics.items()}}
            for edit, found in zip(edits, values, strict=True)
        ]
    )


def last_logits(
    model: Model, tokens: Tokens, fwd_hooks: Sequence[Hook] = (), residuals: Mapping[str, Tensor] | None = None
) -> Float[Tensor, "row vocab"]:
    """Logits at the last position under some hooks; where the model has `LAST_STEP`, only these are computed.

    `residuals` are those of the same tokens after each block, by hook name, without these hooks: blocks before the
    first with a hook are then left out, as they would give the same again.
    """
    last = [(LAST_STEP, lambda x, hook: x[:, -1:])] if LAST_STEP in model.hook_dict else []
    block = min((_block(name) for name, _ in fwd_hooks), default=0)
    known = (residuals or {}).get(_after(block - 1))
    # a copy, as a hook may write into what it is given
    given, start = (tokens, {}) if known is None else (known.clone(), {"start_at_layer": block})
    return model.run_with_hooks(given, fwd_hooks=[*fwd_hooks, *last], **start)[:, -1].float()


def _after(block: int) -> str:
    return f"blocks.{block}.hook_resid_post"


def _block(name: str) -> int:
    """Block that a hook belongs to; 0 for those outside."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else 0


def _resumes(model: Model) -> bool:
    """Whether a run can start at a block: where blocks read the residual stream alone, no mask made from tokens."""
    alone = isinstance(model, HookedTransformer) and model.cfg.positional_embedding_type != "shortformer"
    return alone and model.tokenizer is None


def _read(model: Model, sources: Sequence[Tokens], names: Sequence[str]) -> dict[str, Tensor]:
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


# --- named experiments ---------------------------------------------------------------------------------------


def by_layer_and_position(
    model: Model,
    target: Tokens,
    source: Tokens | Sequence[Tokens],
    metrics: Mapping[str, Callable],
    *,
    layers: Sequence[int] | None = None,
    positions: Sequence[int] | None = None,
    subspace: Subspace | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch the residual stream at each layer and position. Columns: layer, position, the metrics.

    Layers are numbered as in `unifylens.states`: 0 is the embedding, k is after block k - 1 (None: all). `positions`
    default to all, which needs prompts of one length; `options` as in `experiment`.
    """
    lengths = {tokens.shape[-1] for tokens in (target, *([source] if isinstance(source, Tensor) else source))}
    if positions is None and len(lengths) > 1:
        raise ValueError(
            f"prompts of source and target have lengths {sorted(lengths)}; name positions counted from the end of "
            "each, such as positions=[-1], or pad to one length on the left."
        )
    n_layers = model.cfg.n_layers
    layers = range(n_layers + 1) if layers is None else layers
    positions = range(target.shape[1]) if positions is None else positions
    edits = [
        patch_at(residual(model, layer), {"layer": layer, "position": position}, positions=position, subspace=subspace)
        for layer in layers
        for position in positions
    ]
    return experiment(model, target, edits, metrics, source=source, **options)


def by_head(
    model: Model,
    target: Tokens,
    source: Tokens | Sequence[Tokens],
    metrics: Mapping[str, Callable],
    *,
    positions: hooks.Positions = None,
    **options: Any,
) -> pd.DataFrame:
    """Patch each attention head's result (before W_O). Columns: layer (the block's number), head, the metrics."""
    edits = [
        patch_at(f"blocks.{block}.attn.hook_z", {"layer": block, "head": head}, heads=head, positions=positions)
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
    """Patch each block's attention and MLP output. Columns: layer (the block's number), component, the metrics."""
    edits = [
        patch_at(f"blocks.{block}.hook_{name}_out", {"layer": block, "component": component}, positions=positions)
        for block in range(model.cfg.n_layers)
        for name, component in (("attn", "attention"), ("mlp", "MLP"))
        if _has(model, f"blocks.{block}.hook_{name}_out")
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

    def edit(group: str, members: Mapping[int, Sequence[int]]) -> Edit:
        parts = {f"blocks.{b}.mlp.hook_post": neurons(list(ns), model.cfg.d_mlp) for b, ns in members.items()}

        def at(batch: Batch) -> list[Hook]:
            return [
                (name, partial(hooks.patch, source=batch.source[name], positions=positions, subspace=part))
                for name, part in parts.items()
            ]

        return Edit({"group": group}, at, tuple(parts))

    edits = [edit(group, members) for group, members in groups.items()]
    return experiment(model, target, edits, metrics, source=source, **options)


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
    mlps = [(f"MLP{b}", b, None) for b in range(cfg.n_layers) if _has(model, _output(b, None))]
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
            here = _read(model, [batch.target], [reads])[reads][:, position]
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


def _has(model: Model, name: str) -> bool:
    """Whether an output exists; models without MLPs may have the name of one all the same."""
    return name in model.hook_dict and not (model.cfg.attn_only and "mlp" in name)


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
        if not _has(model, mlp):
            steps = [(before, written, after)]
        elif between in model.hook_dict:
            steps = [(before, written, between), (between, cache[mlp], after)]
        else:
            return False
        if not all(adds(*step) for step in steps):
            return False
    return True


# --- names and checks ----------------------------------------------------------------------------------------


def residual(model: Model, layer: int) -> str:
    """Hook name of the residual stream: layer 0 is the embedding, k is after block k - 1. Raises ValueError beyond."""
    n = model.cfg.n_layers
    if not 0 <= layer <= n:
        raise ValueError(f"layer={layer}: the model has {n} blocks; allowed: 0 (embedding) to {n} (after the last).")
    return f"blocks.{layer}.hook_resid_pre" if layer < n else _after(n - 1)


def check_names(known: set[str], names: Iterable[str]) -> None:
    """Raise ValueError for a hook name that the model lacks, with the nearest ones it has.

    Done here as `TransformerBridge.run_with_hooks` passes over unknown names without a word.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ValueError(f"the model has no hook {name!r}; nearest: {', '.join(near) or 'none'}.")


def _check(
    model: Model,
    sender: Model,
    target: Tokens,
    sources: Sequence[Tokens],
    edits: Sequence[Edit],
    metrics: Mapping[str, Callable],
    reads: Sequence[str],
) -> None:
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
        if tokens.ndim != 2 or not tokens.numel() or tokens.is_floating_point():
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
        for column in metric.columns if isinstance(metric, Metric) else ():
            if len(column) != len(target):
                raise ValueError(f"metric {name!r} was made for {len(column)} rows; target has {len(target)}.")
    if len({tokens.shape for tokens in sources}) > 1:
        lengths = [tokens.shape[1] for tokens in sources]
        raise ValueError(f"the sources' prompts have lengths {lengths}; a mean over them needs one length.")

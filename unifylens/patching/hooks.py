"""Hook functions `fn(activation, hook)` for any model with TransformerLens hook names; pure, so nothing is left behind.

Fix what follows `hook` with `functools.partial`, and run
`model.run_with_hooks(tokens, fwd_hooks=[(name, partial(patch, source=cache, positions=-1))])`.

Activations are `[row, pos, d]` (residual stream, attention and MLP outputs, neurons) or `[row, pos, head, d_head]`
(`hook_q`, `hook_k`, `hook_v`, `hook_z`, `hook_result`). `positions` names the same positions in every row, negative
ones counted from the end, or is a mask `[row, pos]`, one that may differ by row; None means all. Numbers, masks,
vectors and sources may be torch's, numpy's or pandas'. Sums and products of half precision are taken in single.

In a TransformerBridge an edit at `hook_resid_mid` reaches the MLP alone; for the residual stream after attention, edit
`hook_attn_out` (or `hook_resid_pre`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.arguments import array, numbers
from unifylens.errors import suggest
from unifylens.patching.subspaces import Subspace
from unifylens.patching.tensors import as_tensor, at_least_single

if TYPE_CHECKING:
    from transformer_lens.hook_points import HookPoint

__all__ = ["impose_pattern", "keep", "mean_cache", "on_prompt", "patch", "project_out", "steer", "swap"]

Positions = int | Sequence[int] | Bool[Tensor, "row pos"] | ArrayLike | None
Heads = int | Sequence[int] | Tensor | ArrayLike | None
Source = Tensor | np.ndarray | Mapping[str, Tensor]


def patch(
    activation: Float[Tensor, "row pos *d"],
    hook: HookPoint,
    *,
    source: Source,
    positions: Positions = None,
    source_positions: Positions = None,
    heads: Heads = None,
    subspace: Subspace | None = None,
) -> Float[Tensor, "row pos *d"]:
    """Put another run's activation in place of this one's, where asked, and in a subspace alone if one is given.

    `source` is a cache (the entry of the hook's name is taken) or one activation. Its prompts may have another length
    if `positions` are numbers: they count in each run on its own, so -1 is the last position of both.
    `source_positions` says where in the source to take what is put at `positions`: as many in each row, in their order.
    Raises KeyError if the cache lacks the hook's name, ValueError for what does not fit.

    >>> from functools import partial
    >>> target, source = run.corpus.prompts()[:8], run.corpus.prompts()[8:16]
    >>> _, cache = run.model.run_with_cache(source)
    >>> patched = partial(ul.hooks.patch, source=cache, positions=-1)
    >>> run.model.run_with_hooks(target, fwd_hooks=[("blocks.1.hook_resid_pre", patched)]).shape[:2]
    torch.Size([8, 3])
    """
    given = _entry(source, hook).to(activation)
    positions = mask_or_numbers(positions)
    elsewhere = source_positions is not None
    _fits(given, activation, hook, same_length=not elsewhere and (positions is None or isinstance(positions, Tensor)))
    if elsewhere:
        there = _moved(given, activation, hook, positions, source_positions)[_index(activation, hook, positions, heads)]
    else:
        there = given[_index(given, hook, positions, heads)]

    def change(here: Tensor) -> Tensor:
        return there if subspace is None else here + subspace.project(there - here)

    return _edit(activation, hook, change, positions, heads)


def swap(
    activation: Float[Tensor, "row pos *d"],
    hook: HookPoint,
    *,
    partner: Int[Tensor, " row"],
    positions: Positions = None,
    heads: Heads = None,
    subspace: Subspace | None = None,
) -> Float[Tensor, "row pos *d"]:
    """Give every row its partner's activation, or its component in a subspace: two runs in one batch, exchanged.

    Raises ValueError unless `partner` holds one row of the batch for each row.
    """
    partner = as_tensor(partner).to(activation.device)
    is_number = not partner.is_floating_point() and partner.dtype != torch.bool
    inside = is_number and bool(((partner >= 0) & (partner < len(activation))).all())
    if tuple(partner.shape) != (len(activation),) or not inside:
        raise ValueError(
            f"partner={partner.tolist()[:8]}: allowed is one row number, 0 to {len(activation) - 1}, for each of "
            f"the {len(activation)} rows."
        )
    return patch(activation, hook, source=activation[partner], positions=positions, heads=heads, subspace=subspace)


def project_out(
    activation: Float[Tensor, "row pos *d"],
    hook: HookPoint,
    *,
    subspace: Subspace,
    around: Float[Tensor, " d"] | None = None,
    positions: Positions = None,
    heads: Heads = None,
) -> Float[Tensor, "row pos *d"]:
    """Ablate a subspace: the component in it becomes that of `around` (such as a mean state), or zero.

    Raises ValueError where `around` is not one vector `[d]`, TypeError for vectors that are no `Subspace`.
    """
    if not isinstance(subspace, Subspace):
        kind = type(subspace).__name__
        raise TypeError(f"subspace is a {kind}; allowed: a Subspace, such as subspaces.span(vectors).")
    centre = None if around is None else _centre(around, activation, hook)

    def change(here: Tensor) -> Tensor:
        return here - subspace.project(here if centre is None else here - centre)

    return _edit(activation, hook, change, positions, heads)


def keep(
    activation: Float[Tensor, "row pos *d"],
    hook: HookPoint,
    *,
    subspace: Subspace,
    around: Float[Tensor, " d"] | None = None,
    positions: Positions = None,
    heads: Heads = None,
) -> Float[Tensor, "row pos *d"]:
    """Ablate all but a subspace: everything outside it becomes that of `around` (such as a mean state), or zero.

    Raises ValueError where `around` is not one vector `[d]`.
    """
    centre = activation.new_zeros(()) if around is None else _centre(around, activation, hook)

    def change(here: Tensor) -> Tensor:
        return centre + subspace.project(here - centre)

    return _edit(activation, hook, change, positions, heads)


def steer(
    activation: Float[Tensor, "row pos *d"],
    hook: HookPoint,
    *,
    vector: Float[Tensor, "*row d"],
    scale: float = 1.0,
    positions: Positions = None,
    heads: Heads = None,
) -> Float[Tensor, "row pos *d"]:
    """Add a vector, one for all rows `[d]` or one each `[row, d]`. Raises ValueError for another shape.

    >>> from functools import partial
    >>> steered = partial(ul.hooks.steer, vector=torch.ones(16), scale=0.5, positions=-1)
    >>> prompts = run.corpus.prompts()[:8]
    >>> run.model.run_with_hooks(prompts, fwd_hooks=[("blocks.1.hook_resid_pre", steered)]).shape[:2]
    torch.Size([8, 3])
    """
    rows, width = len(activation), activation.shape[-1]
    vector = as_tensor(vector)
    if tuple(vector.shape) not in ((width,), (rows, width)):
        raise ValueError(
            f"vector has shape {list(vector.shape)}; at {hook.name} it must be [{width}] or [{rows}, {width}]."
        )
    precision = torch.promote_types(activation.dtype, torch.float32)
    by_row = vector.to(activation.device, precision).expand(rows, width)
    by_row = by_row.reshape(rows, *[1] * (activation.ndim - 2), width)
    shift = scale * by_row.expand_as(activation)
    return _edit(
        activation, hook, lambda here: here + shift[_index(activation, hook, positions, heads)], positions, heads
    )


def impose_pattern(
    pattern: Float[Tensor, "row head query key"],
    hook: HookPoint,
    *,
    source: Source,
    queries: Positions = None,
    heads: Heads = None,
) -> Float[Tensor, "row head query key"]:
    """Let heads attend as in another run, at some query positions (None: all). For `attn.hook_pattern` only.

    Models of `TransformerBridge.boot_native` pass over edits of their pattern in TransformerLens 3: there it has no
    effect, and `unifylens.patching` refuses it.
    Raises KeyError if the cache lacks the hook's name, ValueError for what does not fit or another hook.
    """
    if not (hook.name or "").endswith("hook_pattern"):
        raise ValueError(f"impose_pattern works at blocks.<layer>.attn.hook_pattern; it was given to {hook.name}.")
    there = _entry(source, hook)
    if there.shape[1:] != pattern.shape[1:]:
        raise ValueError(
            f"the source's pattern is {list(there.shape)}, this run's {list(pattern.shape)}; they must be equal."
        )
    by_query = _heads_inside(there), _heads_inside(pattern)
    return _heads_inside(patch(by_query[1], hook, source=by_query[0], positions=queries, heads=heads))


def on_prompt(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A hook that edits a prompt alone while a model generates: `on_prompt(partial(steer, vector=v, positions=-1))`.

    With a key-value cache the first call sees the whole prompt and later ones the new token alone, where positions of
    the prompt are gone and -1 is the new token: these are left as they are. Without one the prompt comes again with
    what was added, and its own positions get the same edit again. It may stand at several hooks. Make a fresh one for
    every prompt.

    Raises ValueError at attention patterns, which have no positions of their own, and for two tokens or more that do
    not go on from the prompt: another prompt, one cut at the model's context, or one read in pieces
    (a piece of one token looks like a new token, so read prompts at once: no `prefill_chunk_size`).

    >>> from functools import partial
    >>> prompt, vector = run.corpus.prompts()[:2, :2], 100 * torch.ones(16)
    >>> once = ul.hooks.on_prompt(partial(ul.hooks.steer, vector=vector, positions=0))
    >>> with run.model.hooks(fwd_hooks=[("blocks.0.hook_resid_post", once)]):
    ...     said = run.model.generate(prompt, max_new_tokens=1, stop_at_eos=False, verbose=False)
    >>> said.shape
    torch.Size([2, 3])
    """
    known: dict[str | None, tuple[Tensor, Tensor]] = {}

    def edit(activation: Tensor, hook: HookPoint) -> Tensor:
        if (hook.name or "").endswith(("hook_pattern", "hook_attn_scores")):
            raise ValueError(f"on_prompt at {hook.name}: allowed are activations by position, [row, pos, ...].")
        if hook.name not in known:
            known[hook.name] = activation.clone(), function(activation, hook=hook).clone()
            return known[hook.name][1].clone()
        prompt, edited = known[hook.name]
        if activation.shape[1] == 1:
            return activation
        if _goes_on(activation, prompt):
            return torch.cat([edited, activation[:, prompt.shape[1] :]], 1)
        raise ValueError(
            f"on_prompt at {hook.name} sees {list(activation.shape[:2])} rows and positions that do not go on from its "
            f"prompt of {list(prompt.shape[:2])}; allowed: one prompt, read at once (no prefill_chunk_size) and no "
            "longer than the model's context with what is added. Make a fresh on_prompt(function) for every prompt."
        )

    return edit


def _goes_on(activation: Tensor, prompt: Tensor) -> bool:
    """Whether an activation goes on from a prompt; what comes behind it changes no position of a causal model."""
    n = prompt.shape[1]
    if activation.shape[1] < n or activation[:, :n].shape != prompt.shape:
        return False
    return torch.allclose(activation[:, :n], prompt, rtol=1e-2, atol=1e-3 * float(prompt.abs().max()))


def mean_cache(caches: Sequence[Mapping[str, Tensor]], names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Mean of several runs' activations, such as of one fact asked in several languages, as a source to patch from.

    `names` are the entries wanted; None: all of the first cache that have a mean (token IDs have none). With a bridge,
    whose hooks look for names of their own, such as `blocks.0.hook_in`, leave it None to patch from the mean.
    Raises ValueError for no cache or unequal shapes, KeyError for a missing entry.
    """
    if not caches:
        raise ValueError("caches is empty; allowed: one cache or more.")
    if names is None:
        names = [name for name, entry in caches[0].items() if entry is not None and entry.is_floating_point()]
    mean = {}
    for name in names:
        entries = [lookup(cache, name) for cache in caches]
        if len({entry.shape for entry in entries}) > 1:
            raise ValueError(
                f"caches differ at {name}: shapes {[list(entry.shape) for entry in entries]}; a mean needs one shape."
            )
        mean[name] = at_least_single(torch.stack(entries)).mean(0).to(entries[0].dtype)
    return mean


# --- where ---------------------------------------------------------------------------------------------------


def _heads_inside(pattern: Float[Tensor, "row head query key"]) -> Float[Tensor, "row query head key"]:
    """A pattern with its axes as other activations have them; its own inverse."""
    return pattern.transpose(1, 2)


def _edit(
    activation: Tensor, hook: HookPoint, change: Callable[[Tensor], Tensor], positions: Positions, heads: Heads
) -> Tensor:
    """A copy with the asked part changed; the activation itself belongs to the model."""
    at = _index(activation, hook, positions, heads)
    edited = activation.clone()
    edited[at] = change(at_least_single(activation[at])).to(edited.dtype)
    return edited


def _moved(
    given: Tensor, activation: Tensor, hook: HookPoint, positions: Positions, source_positions: Positions
) -> Tensor:
    """The source's activation with what stands at its own positions where it is put here."""
    here, there = _places(activation, hook, positions), _places(given, hook, mask_or_numbers(source_positions))
    counts = [rows.bincount(minlength=len(activation)) for rows, _ in (here, there)]
    if (other := counts[0] != counts[1]).any():
        row = int(other.nonzero()[0, 0])
        raise ValueError(
            f"source_positions names {int(counts[1][row])} positions of row {row}, positions {int(counts[0][row])}; "
            "allowed: as many."
        )
    moved = activation.new_zeros(activation.shape)
    moved[here] = given[there]
    return moved


def _places(activation: Tensor, hook: HookPoint, positions: Positions) -> tuple[Tensor, Tensor]:
    """Rows and columns of positions, row by row."""
    rows, columns = _index(activation, hook, positions, None)
    if isinstance(rows, Tensor):
        return rows, columns
    n = len(activation)
    return torch.arange(n).repeat_interleave(len(columns)), columns.repeat(n)


def _index(activation: Tensor, hook: HookPoint, positions: Positions, heads: Heads) -> tuple:
    """Index of the part at some positions and heads."""
    n_positions = activation.shape[1]
    positions = mask_or_numbers(positions)
    if positions is None:
        rows, columns = slice(None), torch.arange(n_positions)
    elif isinstance(positions, Tensor):
        if positions.dtype != torch.bool or positions.shape != activation.shape[:2]:
            raise ValueError(
                f"positions is a {positions.dtype} tensor of shape {list(positions.shape)}; allowed: numbers, or a "
                f"mask (torch.bool) of shape {list(activation.shape[:2])}.{_while_generating(n_positions)}"
            )
        rows, columns = positions.nonzero(as_tuple=True)
    else:
        try:
            columns = _numbers(positions, n_positions, "positions", f"the prompt at {hook.name}")
        except ValueError as error:
            raise ValueError(f"{error}{_while_generating(n_positions)}") from None
        rows = slice(None)
    if heads is None:
        return rows, columns
    if activation.ndim != 4:
        raise ValueError(
            f"heads={heads}: the activation at {hook.name} is {list(activation.shape)} and has no heads; use "
            "attn.hook_z, hook_q, hook_k, hook_v or hook_pattern."
        )
    chosen = _numbers(heads, activation.shape[2], "heads", hook.name)
    return (rows if isinstance(rows, slice) else rows[:, None]), columns[:, None], chosen


def _while_generating(n_positions: int) -> str:
    """What else may be wrong where there is one position alone."""
    if n_positions > 1:
        return ""
    return (
        " While a model generates with a key-value cache, a hook sees the new token alone; hooks.on_prompt(function) "
        "edits the prompt once."
    )


def mask_or_numbers(positions: Positions) -> Positions:
    """Positions with a mask `[row, pos]` as torch has it, whoever made it."""
    if positions is None or isinstance(positions, (int, range)) or not hasattr(positions, "__array__"):
        return positions
    if isinstance(positions, Tensor) and positions.ndim > 1:
        return positions
    table = array(positions)
    return as_tensor(table) if table.ndim > 1 else table


def _numbers(given: Heads, n: int, field: str, where: str) -> Int[Tensor, " chosen"]:
    chosen = numbers(given, n, field, where, from_end=True) % n
    if len(np.unique(chosen)) < len(chosen):
        raise ValueError(
            f"{field}={array(given).tolist()} names one twice: {where} has {n}; allowed: each once, the same in every "
            "row. Positions that differ by row are a mask [row, pos]."
        )
    return torch.from_numpy(chosen)


def _centre(around: ArrayLike | Tensor, activation: Tensor, hook: HookPoint) -> Float[Tensor, " d"]:
    centre, width = as_tensor(around), activation.shape[-1]
    if tuple(centre.shape) != (width,):
        raise ValueError(
            f"around has shape {list(centre.shape)}; at {hook.name} it must be [{width}], one for all rows."
        )
    return centre.to(activation)


def _entry(source: Source, hook: HookPoint) -> Tensor:
    return as_tensor(source) if isinstance(source, (Tensor, np.ndarray)) else lookup(source, hook.name)


def lookup(cache: Mapping[str, Tensor], name: str) -> Tensor:
    """A cache's entry. Raises KeyError, with the nearest name there is, where the hook was not in that run."""
    try:
        entry = cache[name]
    except KeyError:
        entry = None
    if entry is None or not entry.numel():
        near = suggest(name, list(cache)) if list(cache) else " The cache is empty: the hook was not in that run."
        raise KeyError(f"the cache has nothing at {name!r}; run the source with it in names_filter.{near}")
    return entry


def _fits(given: Tensor, activation: Tensor, hook: HookPoint, same_length: bool) -> None:
    if given.shape[0] != activation.shape[0] or given.shape[2:] != activation.shape[2:]:
        raise ValueError(
            f"the source at {hook.name} is {list(given.shape)}, this run {list(activation.shape)}; rows and widths "
            "must be equal: row i is patched into row i, between models of one shape."
        )
    if same_length and given.shape[1] != activation.shape[1]:
        raise ValueError(
            f"the source's prompts have {given.shape[1]} positions, these {activation.shape[1]}: name the positions to "
            "patch by numbers, such as positions=-1 for the last, say source_positions, or use prompts of one length."
        )

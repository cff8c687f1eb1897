"""The residual stream of any model: hook names by layer, and states and logits of prompts."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.arguments import array, plain

BATCH_ROWS = 2048
"""Prompts run at a time."""
LAST_STEP = "unembed.hook_in"
SWITCHES = {
    "hook_attn_in": "use_attn_in",
    **dict.fromkeys(("hook_q_input", "hook_k_input", "hook_v_input"), "use_split_qkv_input"),
    "hook_result": "use_attn_result",
    "hook_mlp_in": "use_hook_mlp_in",
}
"""Settings of a `HookedTransformer` without which it does not run some hooks."""

Tokens = Int[Tensor, "row pos"]
Hook = tuple[str, Callable[..., Tensor]]


class Model(Protocol):
    """What analysis needs of a model: TransformerLens' hook names, whichever class has them.

    `HookedTransformer` (TransformerLens 3) and `TransformerBridge` (3 and 4) both do.
    """

    cfg: Any
    hook_dict: dict[str, Any]

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Run with hook functions on."""

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Run and keep activations."""

    def parameters(self) -> Iterator[Tensor]:
        """Weights; they say on which device it computes."""


def as_tensor(values: ArrayLike | Tensor) -> Tensor:
    """Values as torch has them. Raises ValueError or TypeError for what holds no numbers."""
    return values if isinstance(values, Tensor) else torch.as_tensor(array(values).copy())  # torch wants to own them


def holds_numbers(tensor: Tensor) -> bool:
    """Whether it holds whole numbers, as token IDs are, and no masks."""
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of Python or numpy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def as_tokens(prompts: ArrayLike | Tensor) -> Tokens:
    """Prompts as a tensor. Raises ValueError for what holds no numbers, such as texts."""
    try:
        return as_tensor(prompts)
    except (ValueError, TypeError):
        raise ValueError(
            f"prompts of type {type(prompts).__name__} hold no numbers, or rows of unequal length; allowed: token IDs "
            "[row, pos]."
        ) from None


def token_ids(prompts: ArrayLike | Tensor) -> Tokens:
    """Prompts as a tensor of token IDs. Raises ValueError for anything else."""
    tokens = as_tokens(prompts)
    if tokens.ndim != 2 or not holds_numbers(tokens):
        raise ValueError(f"prompts is {tokens.dtype} of shape {list(tokens.shape)}; it must be token IDs [row, pos].")
    return tokens


def prompts_of(source: Tokens | Sequence[Tokens] | None) -> list[Tokens]:
    """The sources' prompts, none, one or several, as tensors. Raises ValueError as `as_tokens` does."""
    if source is None:
        return []
    if isinstance(source, Tensor) or hasattr(source, "__array__"):
        return [as_tokens(source)]
    several = list(source)
    rows = [row for row in several if isinstance(row, (list, tuple))]
    if rows and not any(isinstance(x, (list, tuple)) for row in rows for x in row):
        return [as_tokens(several)]  # rows of numbers
    return [as_tokens(tokens) for tokens in several]


def last_logits(
    model: Model, tokens: Tokens, fwd_hooks: Sequence[Hook] = (), residuals: Mapping[str, Tensor] | None = None
) -> Float[Tensor, "row vocab"]:
    """Logits at the last position under some hooks; where the model has `LAST_STEP`, only these are computed.

    `residuals` are those of the same tokens after each block, by hook name, without these hooks: blocks before the
    first with a hook are then left out, as they would give the same again. Raises ValueError for what are no prompts.
    """
    tokens = token_ids(tokens)
    last = [(LAST_STEP, lambda x, hook: x[:, -1:])] if LAST_STEP in model.hook_dict else []
    block = min((block_of(name) for name, _ in fwd_hooks), default=0)
    known = (residuals or {}).get(resid_post(block - 1))
    # a copy, as a hook may write into what it is given
    given, start = (tokens, {}) if known is None else (known.clone(), {"start_at_layer": block})
    return model.run_with_hooks(given, fwd_hooks=[*fwd_hooks, *last], **start)[:, -1].float()


def resid_post(block: int) -> str:
    """Hook name of the residual stream after a block."""
    return f"blocks.{block}.hook_resid_post"


def block_of(name: str) -> int:
    """Block that a hook belongs to; 0 for those outside."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else 0


def can_resume(model: Model) -> bool:
    """Whether a run can start at a block: where blocks read the residual stream alone, no mask made from tokens."""
    simple = _is_hooked(model) and model.cfg.positional_embedding_type != "shortformer"
    return simple and model.tokenizer is None


def _is_hooked(model: Model) -> bool:
    """Whether it is a `HookedTransformer`; the class itself is gone from TransformerLens 4."""
    return "HookedTransformer" in {kind.__name__ for kind in type(model).__mro__}


def residual(model: Model, layer: int) -> str:
    """Hook name of the residual stream: layer 0 is the embedding, k is after block k - 1. Raises ValueError beyond."""
    n, number = model.cfg.n_layers, plain(layer)
    if not is_whole(number):
        raise ValueError(f"layer={layer!r}; allowed: one whole number, 0 (embedding) to {n} (after the last).")
    if not 0 <= number <= n:
        raise ValueError(f"layer={layer}: the model has {n} blocks; allowed: 0 (embedding) to {n} (after the last).")
    return f"blocks.{number}.hook_resid_pre" if number < n else resid_post(n - 1)


def check_names(known: set[str], names: Iterable[str]) -> None:
    """Raise ValueError for a hook name that the model lacks, with the nearest ones it has.

    Done here as `TransformerBridge.run_with_hooks` passes over unknown names without a word.
    """
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            raise ValueError(f"the model has no hook {name!r}; nearest: {', '.join(near) or 'none'}.")


def check_switches(model: Model, names: Iterable[str]) -> None:
    """Raise ValueError for a hook that a `HookedTransformer` does not run as it is set."""
    for name in names if _is_hooked(model) else ():
        switch = SWITCHES.get(name.rpartition(".")[2])
        if switch and not getattr(model.cfg, switch):
            raise ValueError(f"the model does not run {name} while {switch} is off; call model.set_{switch}(True).")


def check_edits(model: Model, names: Iterable[str]) -> None:
    """Raise ValueError for a hook at which a model passes over edits, or they reach a part alone."""
    check_switches(model, names)
    for name in names:
        if name.endswith(".hook_attn_in") and _is_hooked(model) and model.cfg.use_split_qkv_input:
            raise ValueError(
                f"the model passes over edits at {name} while use_split_qkv_input is on; call "
                "model.set_use_split_qkv_input(False)."
            )
        block = name.rpartition(".hook_")[0]
        if name.endswith(".hook_resid_mid") and getattr(model.hook_dict[name], "name", name) != name:
            raise ValueError(
                f"in this model an edit at {name} reaches the MLP alone; allowed: {block}.hook_attn_out, which both "
                "the MLP and the residual stream take up."
            )
        if name.endswith((".attn.hook_pattern", ".attn.hook_attn_scores")) and not _is_followed(model, name):
            raise ValueError(f"this model passes over edits at {name}; allowed: {block}.hook_z, what the heads mix.")


@torch.no_grad()
def _is_followed(model: Model, name: str) -> bool:
    """Whether heads mix by what a hook of theirs gives: of zeros alone, the same at both positions."""
    mixed: list[Tensor] = []
    zeros = (name, lambda x, hook: torch.zeros_like(x))
    keep = (f"{name.rpartition('.')[0]}.hook_z", lambda z, hook: mixed.append(z.clone()))
    tokens = torch.arange(2, device=next(model.parameters()).device)[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TransformerLens 4 warns of some edits that it passes over
        model.run_with_hooks(tokens, fwd_hooks=[zeros, keep])
    return not mixed or torch.equal(mixed[0][:, 0], mixed[0][:, 1])


def layer_names(n_layers: int) -> list[str]:
    """Hook names of the residual stream from the embedding to after the last block."""
    return ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]


@torch.no_grad()
def run_prompts(
    model: Model,
    prompts: Int[Tensor, "row pos"],
    position: Int[Tensor, " row"] | int = -1,
    logits_at: Int[Tensor, " row"] | int = -1,
) -> tuple[Float[Tensor, "row vocab"], list[Float[Tensor, "row d_model"]]]:
    """Logits at `logits_at`, and the residual stream at `position`, by layer from the embedding on.

    Raises ValueError for prompts that are no token IDs.
    """
    prompts = token_ids(prompts)
    names = layer_names(model.cfg.n_layers)
    logits, states = [], []
    n = len(prompts)
    where = [torch.as_tensor(at).expand(n) for at in (position, logits_at)]
    for batch, at, last in zip(*(x.split(BATCH_ROWS) for x in (prompts, *where)), strict=True):
        row, kept = torch.arange(len(batch)), []
        fwd_hooks = [(name, partial(_keep, kept=kept, where=(row, at))) for name in names]
        fwd_hooks.append((names[-1], partial(_only, where=(row, last))))  # nothing else is unembedded: it is dear
        logits.append(model.run_with_hooks(batch, fwd_hooks=fwd_hooks)[:, 0].float().cpu())
        states.append(kept)
    return torch.cat(logits), [torch.cat(parts) for parts in zip(*states, strict=True)]


def _keep(state: Float[Tensor, "row pos d_model"], kept: list[Tensor], where: tuple[Tensor, Tensor], **_: Any) -> None:
    kept.append(state[where].float().cpu())


def _only(
    state: Float[Tensor, "row pos d_model"], where: tuple[Tensor, Tensor], **_: Any
) -> Float[Tensor, "row 1 d_model"]:
    return state[where][:, None]


def has_hook(model: Model, name: str) -> bool:
    """Whether an output exists; models without MLPs may have the name of one all the same."""
    return name in model.hook_dict and not (model.cfg.attn_only and "mlp" in name)

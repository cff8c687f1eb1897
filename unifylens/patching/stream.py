"""The residual stream of any model: hook names by layer, and states and logits of prompts."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from unifylens.arguments import plain
from unifylens.patching.prompts import Prompts, as_prompts, by_length, in_order, is_hooked, is_native
from unifylens.patching.tensors import is_whole

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
Rows = Tokens | Prompts | Sequence[Sequence[int] | Tensor]
"""Prompts as users hand them over: a table, `Prompts`, or rows of any length."""
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

    def named_modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Its parts; they say whether dropout is on."""

    def parameters(self) -> Iterator[Tensor]:
        """Weights; they say on which device it computes."""


def last_logits(model: Model, tokens: Rows, fwd_hooks: Sequence[Hook] = ()) -> Float[Tensor, "row vocab"]:
    """Logits at each prompt's last token under some hooks, which see rows of one length at a time.

    Raises ValueError for what are no prompts, as `as_prompts` does.
    """
    prompts = as_prompts(model, tokens)
    rows = list(by_length(prompts))
    return in_order([logits_of_table(model, prompts.part(some).tokens, fwd_hooks) for some in rows], rows)


def logits_of_table(
    model: Model, tokens: Tokens, fwd_hooks: Sequence[Hook] = (), residuals: Mapping[str, Tensor] | None = None
) -> Float[Tensor, "row vocab"]:
    """Logits at the last position under some hooks; where the model has `LAST_STEP`, only these are computed,
    unless a hook lies behind it.

    `residuals` are those of the same tokens after each block, by hook name, without these hooks: blocks before the
    first with a hook are then left out, as they would give the same again.
    """
    cut = LAST_STEP in model.hook_dict and not any(_is_behind(model, name) for name, _ in fwd_hooks)
    last = [(LAST_STEP, lambda x, hook: x[:, -1:])] if cut else []
    block = min((block_of(name) for name, _ in fwd_hooks), default=0)
    known = (residuals or {}).get(resid_post(block - 1))
    # a copy, as a hook may write into what it is given
    given, start = (tokens, {}) if known is None else (known.clone(), {"start_at_layer": block})
    return model.run_with_hooks(given, fwd_hooks=[*fwd_hooks, *last], **start)[:, -1].float()


def _is_behind(model: Model, name: str) -> bool:
    """Whether a hook runs after `LAST_STEP`, and must see all positions, as its edits count in them."""
    own = getattr(model.hook_dict.get(name), "name", None) or name  # the name behind an alias
    return any(each.startswith("unembed.") and each != LAST_STEP for each in (name, own)) or "hook_unembed" in name


def resid_post(block: int) -> str:
    """Hook name of the residual stream after a block."""
    return f"blocks.{block}.hook_resid_post"


def block_of(name: str) -> int:
    """Block that a hook belongs to; 0 for those outside."""
    return int(name.split(".")[1]) if name.startswith("blocks.") else 0


def can_resume(model: Model) -> bool:
    """Whether a run can start at a block: where blocks read the residual stream alone, no mask made from tokens."""
    simple = is_hooked(model) and model.cfg.positional_embedding_type != "shortformer"
    return simple and model.tokenizer is None and getattr(model.cfg, "language_modules", None) is None


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
    for name in names if is_hooked(model) else ():
        switch = SWITCHES.get(name.rpartition(".")[2])
        if switch and not getattr(model.cfg, switch):
            raise ValueError(f"the model does not run {name} while {switch} is off; call model.set_{switch}(True).")


def check_still(model: Model, name: str) -> None:
    """Raise ValueError where dropout is on, so that answers vary by chance."""
    for part, module in model.named_modules():
        rates = [rate for field, rate in vars(module).items() if "drop" in field and isinstance(rate, float)]
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            rates.append(module.p)
        if module.training and max(rates, default=0) > 0:
            raise ValueError(
                f"{name} is in training mode with dropout {max(rates)} (at {part or 'its root'}), so its answers vary "
                "by chance; call model.eval() first."
            )


def check_edits(model: Model, names: Iterable[str]) -> None:
    """Raise ValueError for a hook at which a model passes over edits, or they reach a part alone."""
    check_switches(model, names)
    for name in names:
        if name.endswith(".hook_attn_in") and is_hooked(model) and model.cfg.use_split_qkv_input:
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
    prompts: Rows,
    position: Int[Tensor, " row"] | int | str = -1,
    logits_at: Int[Tensor, " row"] | int | str = -1,
) -> tuple[Float[Tensor, "row vocab"], list[Float[Tensor, "row d_model"]]]:
    """Logits at `logits_at`, and the residual stream at `position`, by layer from the embedding on.

    Both are a number for all rows (-1: each row's last token), one for each row, or a role of `Prompts`. Numbers by row
    count in what is handed over, padding included. Raises ValueError for prompts that are no token IDs, and for a
    position that a row lacks.
    """
    prompts = as_prompts(model, prompts)
    names = layer_names(model.cfg.n_layers)
    where = [prompts.place(at, name) for at, name in ((position, "position"), (logits_at, "logits_at"))]
    # nothing but `logits_at` is unembedded, as that is dear; networks of `transformers` need all positions until then
    end = names[-1] if is_hooked(model) or is_native(model) else LAST_STEP
    logits, states, ran = [], [], []
    for rows in (some for same in by_length(prompts) for some in same.split(BATCH_ROWS)):
        tokens, (at, last) = prompts.part(rows).tokens, (each[rows] for each in where)
        row, kept = torch.arange(len(rows)), []
        fwd_hooks = [(name, partial(_keep, kept=kept, where=(row, at))) for name in names]
        fwd_hooks.append((end, partial(_only, where=(row, last))))
        logits.append(model.run_with_hooks(tokens, fwd_hooks=fwd_hooks)[:, 0].float().cpu())
        states.append(kept)
        ran.append(rows)
    return in_order(logits, ran), [in_order(parts, ran) for parts in zip(*states, strict=True)]


def _keep(state: Float[Tensor, "row pos d_model"], kept: list[Tensor], where: tuple[Tensor, Tensor], **_: Any) -> None:
    kept.append(state[where].float().cpu())


def _only(
    state: Float[Tensor, "row pos d_model"], where: tuple[Tensor, Tensor], **_: Any
) -> Float[Tensor, "row 1 d_model"]:
    return state[where][:, None]


def has_hook(model: Model, name: str) -> bool:
    """Whether an output exists; models without MLPs may have the name of one all the same."""
    return name in model.hook_dict and not (model.cfg.attn_only and "mlp" in name)

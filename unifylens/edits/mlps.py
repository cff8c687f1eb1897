"""The MLPs of a model: what they read and write, their output weights, and whether edits reach them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor, nn

from unifylens.arguments import numbers, plain, shown
from unifylens.patching.prompts import Prompts, as_prompts
from unifylens.patching.stream import Hook, Model, Rows, check_names, check_still, resid_post
from unifylens.patching.tensors import as_tensor

TOLERANCE = 0.05
"""Of a difference that half precision may make; a norm, a factor or other weights make far more."""


def key_hook(model: Model, block: int) -> str:
    """Hook name of what an MLP's output weights read."""
    name = f"blocks.{block}.mlp.hook_post"
    check_names(set(model.hook_dict), [name])
    return name


def output_hook(model: Model, block: int) -> str:
    """Hook name of what they write, before any norm that follows. Raises ValueError where there is none."""
    name = f"blocks.{block}.mlp.hook_out"  # bridges
    if name in model.hook_dict:
        return name
    if getattr(model.cfg, "use_normalization_before_and_after", False):
        raise ValueError(
            "the model has a norm behind its MLPs and no hook before it; allowed: a TransformerBridge of it, whose "
            "mlp.hook_out stands there."
        )
    return f"blocks.{block}.hook_mlp_out"


def output_weight(model: nn.Module, block: int) -> Float[Tensor, "d_mlp d_model"]:
    """A view of the output weights of a block's MLP. Raises ValueError for what has others, such as experts."""
    mlp = model.blocks[block].mlp
    if hasattr(mlp, "out"):  # a bridge
        # of gated MLPs TransformerLens 3 computes with a second copy once weights are processed
        processed = getattr(mlp, "_processed_W_out", None)
        layer = mlp.out.original_component
        weight = layer.weight if processed is None else processed
        return weight.T if isinstance(layer, nn.Linear) else weight
    if not hasattr(mlp, "W_out"):
        raise ValueError(f"block {block} has no MLP of one W_out (experts have several); allowed: models that have.")
    return mlp.W_out


def keep(x: Tensor, kept: dict[str, Tensor], name: str = "key", **_: Any) -> None:
    """A hook that keeps what it is given."""
    kept[name] = x


def device_of(model: Model) -> torch.device:
    """Where a model computes."""
    return next(model.parameters()).device


# --- what can be edited --------------------------------------------------------------------------------------


def checked(model: Model, prompts: Rows, blocks: ArrayLike | Tensor) -> tuple[Prompts, tuple[int, ...]]:
    """Prompts, and numbers of blocks whose MLPs can be edited. Raises ValueError for others, and for dropout."""
    given, chosen = as_prompts(model, prompts), checked_blocks(model, blocks)
    check_still(model, "the model")
    check_mlps(model, chosen)
    return given, chosen


def checked_blocks(model: Model, blocks: ArrayLike | Tensor, name: str = "blocks") -> tuple[int, ...]:
    """Numbers of blocks. Raises ValueError for one that is not there or has no MLP, and where they do not ascend."""
    if getattr(model.cfg, "attn_only", False):
        raise ValueError("the model has attention alone (attn_only=True), no MLP to edit; allowed: models with MLPs.")
    chosen = tuple(numbers(blocks, model.cfg.n_layers, name, "the model").tolist())
    if any(later <= earlier for earlier, later in pairwise(chosen)):
        raise ValueError(f"{name}={shown(plain(blocks))}; allowed: each block once, the first of them first.")
    return chosen


@torch.no_grad()
def check_mlps(model: Model, blocks: Sequence[int]) -> None:
    """Raise ValueError for an MLP whose hooks and output weights do not fit: of two tokens, differences of outputs are
    those of keys times weights.
    """
    weights = [output_weight(model, block) for block in blocks]
    names = [(key_hook(model, block), output_hook(model, block)) for block in blocks]
    kept = _kept(model, [name for pair in names for name in pair])
    for block, weight, pair in zip(blocks, weights, names, strict=True):
        key, output = (kept.get(name, torch.empty(0)).double() for name in pair)
        as_due = key.shape == (1, 2, weight.shape[0]) and output.shape == (1, 2, weight.shape[1])
        missing = as_due and (output.diff(dim=1) - key.diff(dim=1) @ weight.double()).norm()
        if not as_due or missing > TOLERANCE * output.norm():
            raise ValueError(
                f"the model does not compute {pair[1]} by block {block}'s output weights from {pair[0]}, or does not "
                "run these hooks for each token; allowed: MLPs that can be edited."
            )


@torch.no_grad()
def norm_follows(model: Model, block: int = 0) -> bool:
    """Whether a state takes up what an MLP writes otherwise than as it is: behind a norm (Gemma 2 and 3, OLMo 2), or
    times a factor (Granite). Raises ValueError where it does not take it up at all.
    """
    name, after = output_hook(model, block), resid_post(block)
    before = _kept(model, [after])[after].double()
    ramp = torch.linspace(-1, 1, before.shape[-1], dtype=torch.double, device=before.device) * before.norm().clamp_min(
        1
    )
    added = _kept(model, [after], [(name, lambda x, hook: x + ramp.to(x))])[after].double() - before
    if not added.any():
        raise ValueError(f"the model passes over edits at {name}; allowed: models that run this hook.")
    return bool((added - ramp).norm() > TOLERANCE * ramp.expand_as(added).norm())


def _kept(model: Model, names: Sequence[str], before: Sequence[Hook] = ()) -> dict[str, Tensor]:
    """What two tokens make at some hooks, behind others that edit."""
    kept: dict[str, Tensor] = {}
    hooks = [(name, partial(keep, kept=kept, name=name)) for name in names]
    tokens = torch.arange(2, device=device_of(model))[None]
    model.run_with_hooks(tokens, fwd_hooks=[*before, *hooks], return_type=None)
    return kept


def finite(values: Any, name: str) -> Tensor:
    """Values in double precision. Raises ValueError for what holds no numbers, and for nan and infinity."""
    try:
        found = as_tensor(values).detach()
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"{name} of type {type(values).__name__} holds no numbers; allowed: a tensor.") from None
    check_finite(found, name)
    return found.double().cpu()


def check_finite(values: Tensor, name: str) -> None:
    """Raise ValueError for nan and infinity."""
    finite_ones = values.isfinite()
    if not finite_ones.all():
        at = (~finite_ones).nonzero()[0].tolist()
        raise ValueError(f"{name}{at} is {float(values[tuple(at)])}; allowed: finite numbers.")

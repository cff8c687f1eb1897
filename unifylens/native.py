"""A model of the dish as a native `TransformerBridge`, which TransformerLens 4 has in place of `HookedTransformer`.

The one place that knows how the native model names and lays out its weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

COMPUTED = {
    "act_fn": ("gelu", "relu", "gelu_new", "silu"),
    "positional_embedding_type": ("standard", "rotary"),
    "parallel_attn_mlp": (False,),
    "num_experts": (None,),
    "rotary_adjacent_pairs": (False,),
    "n_key_value_heads": (None,),
    "scale_attn_by_inverse_layer_idx": (False,),
}
"""What a native model computes as a `HookedTransformer` does, by field of its configuration."""

PARTS = {"W_Q": "q", "W_K": "k", "W_V": "v", "W_O": "o", "W_gate": "gate", "W_in": "in", "W_out": "out"}
PARTS |= {"b_Q": "q", "b_K": "k", "b_V": "v", "b_O": "o", "b_in": "in", "b_out": "out"}
"""Components that a bridge has inside attention and MLP, by the parameter that it holds."""


def bridge(cfg: TransformerBridgeConfig, parameters: dict[str, Tensor]) -> TransformerBridge:
    """A model that computes what a `HookedTransformer` with these parameters does.

    Raises ValueError for a shape that native models do not have.
    """
    for field, allowed in COMPUTED.items():
        if (value := getattr(cfg, field)) not in allowed:
            raise ValueError(
                f"{field}={value!r} needs TransformerLens 3.9 (pip install 'transformer-lens<4'); allowed with "
                f"{version('transformer-lens')}: {', '.join(map(repr, allowed))}."
            )
    with torch.random.fork_rng(devices=[]):  # it draws weights of its own, which are replaced
        model = TransformerBridge.boot_native(cfg, device="cpu", dtype=cfg.dtype)
    _give_bias(model.unembed)
    for block, kind in zip(model.blocks, cfg.attn_types or ["global"] * cfg.n_layers, strict=True):
        if cfg.gated_mlp:
            _give_bias(block.mlp.out)
        if kind == "local":
            mask = block.attn.original_component.causal_mask
            mask |= torch.ones_like(mask).tril(-cfg.window_size)
    for own, p in weights(model, parameters):
        own.data.copy_(p)
    return model.eval()  # which TransformerLens' own patching asks for


def _give_bias(component: Any) -> None:
    """A bias that is trained, where the native model has none, or a constant."""
    linear = component.original_component
    del linear.bias
    linear.bias = nn.Parameter(torch.zeros_like(linear.weight[:, 0]))


def weights(model: TransformerBridge, parameters: dict[str, Tensor]) -> Iterator[tuple[nn.Parameter, Tensor]]:
    """A native model's own weights, and what each is of a `HookedTransformer`'s parameters; gradients pass through."""
    for name, p in parameters.items():
        place, _, kind = name.rpartition(".")
        if model.cfg.gated_mlp and kind == "b_in":  # in the bias of what follows
            continue
        if model.cfg.gated_mlp and kind == "b_out":
            p = p + parameters[f"{place}.b_in"] @ parameters[f"{place}.W_out"]
        if model.cfg.positional_embedding_type == "rotary" and kind in ("W_Q", "W_K", "b_Q", "b_K"):
            p = p.unflatten(-1, (2, -1)).transpose(-1, -2).flatten(-2)  # neighbours are turned, not halves
        if kind in ("W_Q", "W_K", "W_V"):
            p = p.transpose(1, 2).flatten(0, 1)
        elif kind in ("b_Q", "b_K", "b_V"):
            p = p.flatten()
        elif kind == "W_O":
            p = p.flatten(0, 1).T
        elif kind in ("W_in", "W_out", "W_gate", "W_U"):
            p = p.T
        component = model.get_submodule(f"{place}.{PARTS[kind]}" if kind in PARTS else place)
        yield getattr(component.original_component, "bias" if kind.startswith("b") else "weight"), p


def named(model: TransformerBridge, parameters: dict[str, Tensor]) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network inside a bridge, and what its weights are with these parameters, by its own names."""
    names = {own: name for name, own in model.original_model.named_parameters()}
    return model.original_model, {names[own]: p for own, p in weights(model, parameters)}

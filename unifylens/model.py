"""The only place that builds a model: a plain `HookedTransformer`, token IDs in, no tokenizer download."""

from __future__ import annotations

import threading
import warnings

import torch
from transformer_lens import HookedTransformer, HookedTransformerConfig

from unifylens.config import ModelConfig
from unifylens.seeds import torch_seed

LOCAL_WINDOW = 2
"""Positions that a token sees in a local block: its own and the one before."""

_ONE_AT_A_TIME = threading.Lock()  # the global generator and the warning filters belong to the whole process


def _construct(config: HookedTransformerConfig, seed: int) -> HookedTransformer:
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        torch.manual_seed(torch_seed(seed, "initial weights"))
        return HookedTransformer(config, move_to_device=False)


def build_model(config: ModelConfig, d_vocab: int, n_ctx: int, seed: int = 0) -> HookedTransformer:
    """An untrained model; the same shape and seed give the same weights, whatever the global generators hold."""
    d_head = config.d_model // config.n_heads
    return _construct(
        HookedTransformerConfig(
            n_layers=config.n_layers,
            d_model=config.d_model,
            n_ctx=n_ctx,
            d_head=d_head,
            n_heads=config.n_heads,
            d_mlp=config.d_mlp,
            act_fn=config.act_fn,
            d_vocab=d_vocab,
            normalization_type=config.normalization,
            positional_embedding_type=config.positional_embedding_type,
            rotary_dim=d_head if config.positional_embedding_type == "rotary" else None,
            use_local_attn=config.local_blocks > 0,
            window_size=LOCAL_WINDOW if config.local_blocks else None,
            attn_types=["local"] * config.local_blocks + ["global"] * (config.n_layers - config.local_blocks),
            attn_only=config.attn_only,
            gated_mlp=config.gated_mlp,
            parallel_attn_mlp=config.parallel_attn_mlp,
            device="cpu",
        ),
        seed,
    )


def n_parameters(config: ModelConfig, d_vocab: int, n_ctx: int) -> int:
    """Number of trained numbers of a model of this shape, without building it."""
    d, d_mlp = config.d_model, config.d_mlp
    normalization = {"LN": 2 * d, "RMS": d}.get(config.normalization, 0)
    attention = 4 * d * d + 4 * d + normalization
    mlp = 0 if config.attn_only else (3 if config.gated_mlp else 2) * d * d_mlp + d_mlp + d + normalization
    positions = 0 if config.positional_embedding_type == "rotary" else n_ctx * d
    return 2 * d_vocab * d + d_vocab + positions + config.n_layers * (attention + mlp) + normalization


def untrained_like(model: HookedTransformer, seed: int = 0) -> HookedTransformer:
    """A fresh model of the same shape: the control that has learnt nothing."""
    return _construct(model.cfg, seed)

"""K models of one shape as one: `HookedTransformer` parameters with a leading K, and one forward for all.

The forward computes only what the loss needs: in the last block, and in the unembedding, only the asked positions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens import HookedTransformer, HookedTransformerConfig

Parameters = dict[str, Tensor]
ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}
NORMALIZATIONS = ("LN", "LNPre", "RMS", "RMSPre", None)


def stack_parameters(models: list[HookedTransformer], device: torch.device | str = "cpu") -> Parameters:
    """The models' own parameters with a leading K on a device, as leaves that require gradients.

    Raises ValueError for no model, for models of different shapes, or a shape that `forward` does not compute.
    """
    if not models:
        raise ValueError("models is empty; allowed: one model or more.")
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in models]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            names = [n for n in shapes[0].keys() | shape.keys() if shape.get(n) != shapes[0].get(n)]
            raise ValueError(f"models[{index}] differs in shape from models[0] at {sorted(names)[:3]}.")
    check_supported(models[0].cfg)
    members = [dict(model.named_parameters()) for model in models]
    return {n: torch.stack([m[n].detach() for m in members]).to(device).requires_grad_() for n in members[0]}


def check_supported(cfg: HookedTransformerConfig) -> None:
    """Raise ValueError, naming the field, for a configuration that `forward` does not compute."""
    needs = {
        "act_fn": tuple(ACTIVATIONS),
        "normalization_type": NORMALIZATIONS,
        "positional_embedding_type": ("standard",),
        "attn_only": (False,),
        "parallel_attn_mlp": (False,),
        "gated_mlp": (False,),
        "attention_dir": ("causal",),
        "use_attn_scale": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "use_local_attn": (False,),
        "attn_scores_soft_cap": (-1.0,),
        "output_logits_soft_cap": (-1.0,),
    }
    for field, allowed in needs.items():
        if getattr(cfg, field) not in allowed:
            raise ValueError(f"{field}={getattr(cfg, field)!r} is not supported by the stack; allowed: {allowed}.")


def unstack(parameters: Parameters, member: int) -> Parameters:
    """One member's parameters as a state dict of a plain `HookedTransformer`."""
    return {name: p[member].detach().clone() for name, p in parameters.items()}


@dataclass
class Output:
    """Logits `[model, batch, query, d_vocab]` and, by layer, the residual stream after it at the same positions."""

    logits: Float[Tensor, "model batch query d_vocab"]
    residual: list[Float[Tensor, "model batch query d_model"]]


def _linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return torch.baddbmm(bias[:, None], x, weight)


def forward(
    parameters: Parameters,
    cfg: HookedTransformerConfig,
    tokens: Int[Tensor, "model batch pos"],
    query: Int[Tensor, "model batch"] | None = None,
) -> Output:
    """What K HookedTransformers compute, at position `query` of every sequence, or everywhere if None."""
    n_models, n_batch, n_pos = tokens.shape
    d_model, n_heads, d_head = cfg.d_model, cfg.n_heads, cfg.d_head
    p = parameters
    same_query = None
    if query is not None and bool((query == query[0, 0]).all()):  # slicing is cheaper than gathering
        same_query = int(query[0, 0])

    def at_query(x: Tensor) -> Tensor:
        """Rows `[model, batch * query, width]` of `[model, batch * pos, width]` that are asked for."""
        if query is None:
            return x
        x = x.view(n_models, n_batch, n_pos, -1)
        if same_query is not None:
            return x[:, :, same_query]
        return x.gather(2, query[:, :, None, None].expand(-1, -1, 1, x.shape[-1]))[:, :, 0]

    def normalize(x: Tensor, name: str) -> Tensor:
        kind = cfg.normalization_type
        if kind is None:
            return x
        if kind in ("LN", "LNPre"):
            x = F.layer_norm(x, (d_model,), eps=cfg.eps)
        else:
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + cfg.eps)
        if kind == "LN":
            return torch.addcmul(p[f"{name}.b"][:, None], x, p[f"{name}.w"][:, None])
        return x * p[f"{name}.w"][:, None] if kind == "RMS" else x

    def project(x: Tensor, layer: int, which: str) -> Tensor:
        """Queries, keys or values of all heads: `[model, batch, pos, head, d_head]`."""
        weight = p[f"blocks.{layer}.attn.W_{which}"].transpose(1, 2).reshape(n_models, d_model, n_heads * d_head)
        bias = p[f"blocks.{layer}.attn.b_{which}"].reshape(n_models, n_heads * d_head)
        return _linear(x, weight, bias).view(n_models, n_batch, -1, n_heads, d_head)

    positions = torch.arange(n_pos, device=tokens.device)
    offsets = torch.arange(n_models, device=tokens.device)[:, None, None] * cfg.d_vocab
    residual = F.embedding(tokens + offsets, p["embed.W_E"].reshape(-1, d_model))
    residual = (residual + p["pos_embed.W_pos"][:, None, :n_pos]).reshape(n_models, n_batch * n_pos, d_model)
    states = []
    for layer in range(cfg.n_layers):
        block, last = f"blocks.{layer}", layer == cfg.n_layers - 1
        x = normalize(residual, f"{block}.ln1")
        q = project(at_query(x) if last else x, layer, "Q") / math.sqrt(d_head)
        k, v = project(x, layer, "K"), project(x, layer, "V")
        # elementwise attention: at these lengths a fused kernel's overhead costs more than the arithmetic
        scores = (q[:, :, :, None] * k[:, :, None]).sum(-1)  # [model, batch, query, key, head]
        if last and query is not None:
            reach = query[:, :, None]
        else:
            reach = positions.expand(1, 1, -1)
        future = positions[None, None, None] > reach[..., None]
        scores = scores.masked_fill(future[..., None], -torch.inf)
        z = (scores.softmax(3)[..., None] * v[:, :, None]).sum(3).reshape(n_models, -1, n_heads * d_head)
        residual = at_query(residual) if last else residual
        out_weight = p[f"{block}.attn.W_O"].reshape(n_models, n_heads * d_head, d_model)
        residual = residual + _linear(z, out_weight, p[f"{block}.attn.b_O"])
        x = normalize(residual, f"{block}.ln2")
        x = ACTIVATIONS[cfg.act_fn](_linear(x, p[f"{block}.mlp.W_in"], p[f"{block}.mlp.b_in"]))
        residual = residual + _linear(x, p[f"{block}.mlp.W_out"], p[f"{block}.mlp.b_out"])
        states.append(residual if last else at_query(residual))
    logits = _linear(normalize(residual, "ln_final"), p["unembed.W_U"], p["unembed.b_U"])
    shape = (n_models, n_batch, -1)
    return Output(
        logits=logits.view(*shape, cfg.d_vocab),
        residual=[state.reshape(*shape, d_model) for state in states],
    )


class _CrossEntropy(torch.autograd.Function):
    """Cross-entropy whose gradient is written where the probabilities stand: the logits are the largest tensor."""

    @staticmethod
    def forward(ctx, logits: Tensor, due: Tensor) -> Tensor:
        log_normalizer = logits.logsumexp(-1)
        ctx.save_for_backward(logits, log_normalizer, due)
        return log_normalizer - logits.gather(-1, due[..., None])[..., 0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        logits, log_normalizer, due = ctx.saved_tensors
        out = (logits - log_normalizer[..., None]).exp_().mul_(gradient[..., None])
        out.scatter_add_(-1, due[..., None], -gradient[..., None])
        return out, None


def mean_cross_entropy(
    logits: Float[Tensor, "model token d_vocab"], due: Int[Tensor, "model token"], ignore: int = 0
) -> Float[Tensor, " model"]:
    """Mean loss of each model in nats, over the tokens that are not `ignore` (padding)."""
    counted = due != ignore
    return (_CrossEntropy.apply(logits, due) * counted).sum(1) / counted.sum(1)

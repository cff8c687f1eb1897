"""K models of one shape as one: their parameters with a leading K, computed together.

`Stacked` writes out what a supported shape computes, and its gradient: only what the loss needs, in few large
operations. `OneByOne` takes any other that TransformerLens computes. Both have the same two methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from unifylens.corpus.tokenization import PAD_ID
from unifylens.model import Parameters, Shape, logits_with, modules_of, untrained

Query = slice | Int[Tensor, "model batch query"] | None
"""Positions whose logits are asked for: the same ones in every sequence, others in each, or all."""

ACTIVATIONS = ("gelu", "relu")
NORMALIZATIONS = ("LN", "LNPre", "RMS", "RMSPre", None)
FEW_POSITIONS = 8
"""Up to here attention is written out elementwise: on a CPU, matrix products this small take longer (measured)."""


# --- parameters ----------------------------------------------------------------------------------------------


def stack_parameters(members: list[Parameters], device: torch.device | str = "cpu") -> Parameters:
    """The parameters of several models with a leading K, on a device.

    Raises ValueError for no model, or for models of different shapes.
    """
    if not members:
        raise ValueError("members is empty; allowed: one model or more.")
    shapes = [{name: tuple(p.shape) for name, p in member.items()} for member in members]
    for index, shape in enumerate(shapes):
        if shape != shapes[0]:
            names = [n for n in shapes[0].keys() | shape.keys() if shape.get(n) != shapes[0].get(n)]
            raise ValueError(f"members[{index}] differs in shape from members[0] at {sorted(names)[:3]}.")
    return {n: torch.stack([m[n].detach() for m in members]).to(device) for n in members[0]}


def unstack(parameters: Parameters, member: int) -> Parameters:
    """One member's parameters by name, as the store keeps them."""
    return {name: p[member].detach().clone() for name, p in parameters.items()}


def token_languages(shapes: Sequence[Shape], device: torch.device | str = "cpu") -> Int[Tensor, "model d_vocab"] | None:
    """The one language of each token, or -1, by member, on a device; None where shapes have no modules of languages."""
    modules = [modules for shape in shapes if (modules := modules_of(shape)) is not None]
    return torch.stack([each.token_language for each in modules]).to(device) if modules else None


# --- what both ways offer ------------------------------------------------------------------------------------


@dataclass
class Output:
    """Logits `[model, batch, query, d_vocab]` and, by layer, the residual stream after it at the same positions."""

    logits: Float[Tensor, "model batch query d_vocab"]
    residual: list[Float[Tensor, "model batch query d_model"]]


@dataclass
class States:
    """The residual stream `[model, batch, d_model]` at one asked position, or the logits `[model, batch, d_vocab]`."""

    values: Float[Tensor, "model batch width"]
    gradients: Callable[[Float[Tensor, "model batch width"]], Parameters]
    """Gradients of parameters, of all that the values depend on, from that of the values; to be asked for once."""


class Network(Protocol):
    """K models of one shape, computed together."""

    def of(self, members: slice) -> Network:
        """What computes some of the members: itself, unless members differ in more than their parameters."""

    def forward(
        self, parameters: Parameters, tokens: Int[Tensor, "model batch pos"], query: Query = None, shared: int = 0
    ) -> Output:
        """What the K models compute at the asked positions.

        `shared=1` says that position 0 holds the same token (`<bos>`) in a member's whole batch and is not asked for.
        """

    def loss_and_gradients(
        self,
        parameters: Parameters,
        tokens: Int[Tensor, "model batch pos"],
        due: Int[Tensor, "model batch query"],
        query: Query = None,
        shared: int = 0,
    ) -> tuple[Float[Tensor, " model"], Parameters]:
        """Mean cross-entropy of each model in nats over the `due` tokens that are not padding; its gradients."""

    def states(
        self,
        parameters: Parameters,
        tokens: Int[Tensor, "model batch pos"],
        layer: int | None,
        query: slice | Int[Tensor, "model batch 1"],
        shared: int = 0,
    ) -> States:
        """The residual stream after `layer` blocks at one position of each sequence; the logits where it is None.

        No token behind the last asked position is needed.
        """


def network_of(
    shape: Shape,
    device: torch.device | str = "cpu",
    bfloat16: bool = False,
    token_language: Int[Tensor, "model d_vocab"] | None = None,
) -> Network:
    """How models of this shape are computed: stacked, or one by one with a warning that says why.

    `token_language`, see `token_languages`, is each member's own; the shape's where it is None.
    Raises ValueError for a shape that the installed TransformerLens does not compute.
    """
    reason = unsupported(shape)
    if reason is None:
        return Stacked(shape, bfloat16, token_language)
    warnings.warn(f"{reason}: models of this shape train one by one, several times slower", stacklevel=2)
    return OneByOne(shape, device, bfloat16, token_language)


def unsupported(cfg: Shape) -> str | None:
    """Why `Stacked` does not compute a configuration, naming the field and what it supports; None if it does."""
    needs = {
        "act_fn": ACTIVATIONS,
        "normalization_type": NORMALIZATIONS,
        "positional_embedding_type": ("standard", "rotary"),
        "attn_only": (False,),
        "parallel_attn_mlp": (False,),
        "gated_mlp": (False,),
        "attention_dir": ("causal",),
        "scale_attn_by_inverse_layer_idx": (False,),
        "attn_scores_soft_cap": (-1.0,),
        "output_logits_soft_cap": (-1.0,),
        "n_key_value_heads": (None, cfg.n_heads),
        "num_experts": (None,),
        "use_qk_norm": (False,),
        "use_normalization_before_and_after": (False,),
        "post_embedding_ln": (False,),
        "final_rms": (False, cfg.normalization_type == "RMS"),
        "d_vocab_out": (cfg.d_vocab,),
        "use_NTK_by_parts_rope": (False,),
        "use_yarn_rope": (False,),
        "use_dynamic_ntk_rope": (False,),
        "rotary_scaling_factor": (1.0,),
    }
    if cfg.use_local_attn and cfg.attn_types[-1] != "global":
        return f"attn_types={cfg.attn_types!r} is not computed by the stack (supported: 'global' in the last block)"
    for name, allowed in needs.items():
        value = getattr(cfg, name, allowed[0])
        if value not in allowed:
            return f"{name}={value!r} is not computed by the stack (supported: {', '.join(map(repr, allowed))})"
    return None


# --- loss ----------------------------------------------------------------------------------------------------


def cross_entropy(
    logits: Float[Tensor, "model token d_vocab"], due: Int[Tensor, "model token"]
) -> tuple[Float[Tensor, " model"], Float[Tensor, "model token d_vocab"]]:
    """Mean loss of each model in nats over the tokens that are not padding, and its gradient by the logits."""
    counted = (due != PAD_ID).to(logits.dtype)
    weight = counted / counted.sum(1, keepdim=True).clamp(min=1)
    probability = logits.softmax(-1)
    # log of the normaliser from the largest entry, which cannot underflow: a second pass of exp would cost more
    log_normalizer = logits.amax(-1) - probability.amax(-1).log()
    losses = log_normalizer - logits.gather(-1, due[..., None])[..., 0]
    gradient = probability.mul_(weight[..., None])
    gradient.scatter_add_(-1, due[..., None], -weight[..., None])
    return (losses * weight).sum(1), gradient


# --- stacked -------------------------------------------------------------------------------------------------


def _sum_by_entry(
    gradient: Float[Tensor, "model row d_model"], entries: Int[Tensor, "model row"], table: Tensor
) -> Float[Tensor, "model d_vocab d_model"]:
    """Gradient of embeddings, which `entries` number through all models. The same bits every time."""
    rows, entries = gradient.flatten(0, 1), entries.flatten()
    if rows.is_cuda:  # where `index_add_` adds in any order
        return torch.ops.aten.embedding_dense_backward(rows, entries, table[..., 0].numel(), -1, False).view_as(table)
    return torch.zeros_like(table).flatten(0, 1).index_add_(0, entries, rows).view_as(table)


class Stacked:
    """K models at once, forward and gradient written out; see `unsupported` for the shapes it computes."""

    def __init__(
        self, cfg: Shape, bfloat16: bool = False, token_language: Int[Tensor, "model d_vocab"] | None = None
    ) -> None:
        """`bfloat16` multiplies matrices in that precision in training; all else stays as the parameters are.

        Raises ValueError for a configuration that is not supported.
        """
        if reason := unsupported(cfg):
            raise ValueError(f"{reason}.")
        self.cfg = cfg
        self.bfloat16 = bfloat16
        self.token_language = token_language
        self._geometries: dict[tuple, _Geometry] = {}

    def of(self, members: slice) -> Stacked:
        """Itself where members differ in their parameters alone, or with what some know of their tokens' languages."""
        return _some(self, members)

    def gate(self, tokens: Int[Tensor, "model batch pos"]) -> Bool[Tensor, "model batch neuron"] | None:
        """Which neurons of modules are of each prompt's language; None where the shape has no modules."""
        if (modules := modules_of(self.cfg)) is None:
            return None
        known = modules.token_language.to(tokens.device)[None] if self.token_language is None else self.token_language
        return modules.gate(tokens, known.expand(len(tokens), -1))

    def geometry(self, tokens: Tensor, query: Query, shared: int) -> _Geometry:
        """Where rows stand; made once for each shape of the batch, and kept: a CUDA graph may have recorded it."""
        window = self.cfg.window_size if self.cfg.use_local_attn else None
        if isinstance(query, Tensor):
            return _Geometry(*tokens.shape, query, shared, tokens.device, window)
        key = (*tokens.shape, query.start, query.stop, shared, tokens.device)
        if key not in self._geometries:
            self._geometries[key] = _Geometry(*tokens.shape, query, shared, tokens.device, window)
        return self._geometries[key]

    def forward(
        self, parameters: Parameters, tokens: Int[Tensor, "model batch pos"], query: Query = None, shared: int = 0
    ) -> Output:
        """What the K models compute at the asked positions."""
        return Pass(self, parameters, tokens, query, shared, bfloat16=False).output()

    def loss_and_gradients(
        self,
        parameters: Parameters,
        tokens: Int[Tensor, "model batch pos"],
        due: Int[Tensor, "model batch query"],
        query: Query = None,
        shared: int = 0,
    ) -> tuple[Float[Tensor, " model"], Parameters]:
        """Mean cross-entropy of each model in nats over the `due` tokens that are not padding; its gradients."""
        return Pass(self, parameters, tokens, query, shared, self.bfloat16).loss_and_gradients(due)

    def states(
        self,
        parameters: Parameters,
        tokens: Int[Tensor, "model batch pos"],
        layer: int | None,
        query: slice | Int[Tensor, "model batch 1"],
        shared: int = 0,
    ) -> States:
        """The residual stream after `layer` blocks at one position of each sequence; the logits where it is None."""
        return Pass(self, parameters, tokens, query, shared, self.bfloat16, layer).states()


class _Geometry:
    """Where the rows of a batch of some shape stand.

    The rows of an activation `[model, row, width]` are the shared first position, if any, once; then, position by
    position, the batch. So an asked position is a block of rows, and what a batch shares is computed once.
    """

    def __init__(
        self,
        n_models: int,
        n_batch: int,
        n_pos: int,
        query: Query,
        shared: int,
        device: torch.device,
        window: int | None = None,
    ) -> None:
        self.n_models, self.n_batch, self.n_pos, self.shared = n_models, n_batch, n_pos, shared
        self.positions = torch.arange(n_pos, device=device)
        self.own_positions = self.positions[shared:, None]
        self.hidden = self._hidden(self.own_positions)
        self.locally_hidden = None if window is None else self._hidden(self.own_positions, window)
        if isinstance(query, slice):
            self.n_query = query.stop - query.start
            self.rows = slice(*(shared + (at - shared) * n_batch for at in (query.start, query.stop)))
            self.asked_positions = self.positions[query, None]
            sees_all = self.n_query == 1 and query.stop == n_pos
            self.asked_hidden = None if sees_all else self._hidden(self.asked_positions)
        else:
            self.n_query = query.shape[2]
            self.asked_positions = query.transpose(1, 2)  # [model, query, batch]
            batch = torch.arange(n_batch, device=device)
            self.rows = (shared + (self.asked_positions - shared) * n_batch + batch).flatten(1).unsqueeze(-1)
            self.asked_hidden = self._hidden(self.asked_positions)
        self.asked_locally_hidden = None if window is None else self._hidden(self.asked_positions, window)

    def _hidden(self, at: Tensor, window: int | None = None) -> Tensor:
        """Keys behind a query, and those a window or more before it, `[..., query, key, batch or 1, 1]`."""
        keys, at = self.positions.unsqueeze(-1), at.unsqueeze(-2)
        hidden = keys > at if window is None else (keys > at) | (keys <= at - window)
        return hidden.unsqueeze(-1)

    def asked(self, x: Tensor) -> Tensor:
        """Rows of the asked positions."""
        return x[:, self.rows] if isinstance(self.rows, slice) else x.gather(1, self.rows.expand(-1, -1, x.shape[2]))

    def add_asked(self, x: Tensor, gradient: Tensor) -> Tensor:
        """`x` with `gradient` added, in place, at the rows of the asked positions."""
        if isinstance(self.rows, slice):
            x[:, self.rows].add_(gradient)
            return x
        return x.scatter_add_(1, self.rows.expand(-1, -1, x.shape[2]), gradient)

    def by_position(self, x: Tensor) -> Tensor:
        """Rows behind the shared one, `[model, pos, batch, ...]`."""
        x = x[:, 1:] if self.shared else x
        return x.unflatten(1, (-1, self.n_batch))

    def by_batch(self, x: Float[Tensor, "model row width"]) -> Float[Tensor, "model batch query width"]:
        """Asked rows in the order of the batch."""
        return x.view(self.n_models, self.n_query, self.n_batch, -1).transpose(1, 2)

    def everywhere(self, x: Float[Tensor, "model row head d_head"]) -> Float[Tensor, "model pos batch head d_head"]:
        """Keys or values at every position of every sequence, the shared one repeated."""
        own = self.by_position(x)
        return torch.cat([x[:, :1, None].expand(-1, -1, self.n_batch, -1, -1), own], 1) if self.shared else own

    def gather(self, gradient: Float[Tensor, "model pos batch head d_head"], out: Tensor) -> None:
        """Into `out` `[model, row, head, d_head]`, the gradient of what `everywhere` repeated."""
        if self.shared:
            out[:, 0] = gradient[:, 0].sum(1)
        self.by_position(out).copy_(gradient[:, self.shared :])


@dataclass
class Trace:
    """What the gradient of one block needs of its forward pass."""

    norms: dict[str, tuple[Tensor, Tensor, Tensor | None, Tensor]] = field(default_factory=dict)
    """By name of the normalisation: its input, that at unit scale, mean and scale."""
    joined: dict[str, Tensor] = field(default_factory=dict)
    """By names, such as `QKV`: the weights of several of queries, keys and values, side by side."""
    normal: Tensor | None = None
    """What attention reads: the normalised residual stream."""
    q: Tensor | None = None
    k: Tensor | None = None
    v: Tensor | None = None
    pattern: Tensor | None = None
    z: Tensor | None = None
    """What heads mix, before `W_O`."""
    normal_after: Tensor | None = None
    """What the MLP reads."""
    hidden: Tensor | None = None
    active: Tensor | None = None
    """MLP neurons before and after the activation function."""


class Pass:
    """One forward pass and what its gradient needs."""

    def __init__(
        self,
        network: Stacked,
        parameters: Parameters,
        tokens: Tensor,
        query: Query,
        shared: int,
        bfloat16: bool,
        depth: int | None = None,
    ) -> None:
        """`depth` blocks are computed, then nothing; all of them, and the logits, where it is None."""
        self.to_logits = depth is None
        self.depth = network.cfg.n_layers if depth is None else depth
        self.cfg, self.bfloat16, self.p = network.cfg, bfloat16, parameters
        gate = network.gate(tokens)
        shared = shared if gate is None else 0  # the first position differs from language to language
        self.gate = None if gate is None else gate.to(parameters["embed.W_E"].dtype).unsqueeze(1)
        self.at = network.geometry(tokens, slice(0, tokens.shape[2]) if query is None else query, shared)
        rows = tokens[:, :, shared:].transpose(1, 2).flatten(1)
        self.tokens = torch.cat([tokens[:, 0, :1], rows], 1) if shared else rows
        self.gradients: Parameters = {}
        self.trace: list[Trace] = []
        """By block."""
        self.final = Trace()
        """Of the last normalisation."""
        self.residual: list[Tensor] = []
        self.for_gradients = True
        """Whether the trace of a block is kept when the next one is computed."""

    # --- parts, each with its gradient ---------------------------------------------------------------------

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Matrix product of every member."""
        return torch.bmm(a.bfloat16(), b.bfloat16()).to(a.dtype) if self.bfloat16 else torch.bmm(a, b)

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor, onto: Tensor | None = None) -> Tensor:
        """`x @ weight + bias`, added to `onto` if given."""
        bias = bias.unsqueeze(1)
        if self.bfloat16:
            y = self.multiply(x, weight).add_(bias)
            return y if onto is None else y.add_(onto)
        return torch.baddbmm(bias, x, weight) if onto is None else (onto + bias).baddbmm_(x, weight)

    def linear_backward(self, gradient: Tensor, x: Tensor, layer: str, which: str = "") -> Tensor:
        """Gradient by the input of `linear`; those of its weight and bias are kept."""
        self.keep_linear(gradient, x, layer, which)
        matrix = self.p[f"{layer}.W{which}"].flatten(1, -2)  # W_O stands head by head
        return self.multiply(gradient, matrix.transpose(1, 2))

    def gated(self, neurons: Float[Tensor, "model row d_mlp"]) -> Float[Tensor, "model row d_mlp"]:
        """Neurons, in place, without the modules of other languages than the prompt's; their gradient likewise."""
        if self.gate is not None:
            self.at.by_position(neurons)[..., neurons.shape[2] - self.gate.shape[3] :].mul_(self.gate)
        return neurons

    def normalize(self, x: Tensor, name: str, trace: Trace) -> Tensor:
        """LayerNorm or RMSNorm, with its weights where it has any."""
        kind, cfg = self.cfg.normalization_type, self.cfg
        if kind is None:
            return x
        if kind in ("LN", "LNPre"):
            unit, mean, scale = torch.native_layer_norm(x, (cfg.d_model,), None, None, cfg.eps)
        else:
            scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + cfg.eps)
            unit, mean = x * scale, None
        trace.norms[name] = (x, unit, mean, scale)
        if kind == "LN":
            return torch.addcmul(self.p[f"{name}.b"].unsqueeze(1), unit, self.p[f"{name}.w"].unsqueeze(1))
        return unit * self.p[f"{name}.w"].unsqueeze(1) if kind == "RMS" else unit

    def normalize_backward(self, gradient: Tensor, name: str, trace: Trace) -> Tensor:
        """Gradient by the input of `normalize`."""
        kind = self.cfg.normalization_type
        if kind is None:
            return gradient
        x, unit, mean, scale = trace.norms[name]
        if kind in ("LN", "RMS"):
            self.keep_normalization(gradient, unit, name)
            gradient = gradient * self.p[f"{name}.w"].unsqueeze(1)
        if mean is None:
            return (gradient - unit * (gradient * unit).mean(-1, keepdim=True)).mul_(scale)
        return torch.ops.aten.native_layer_norm_backward(
            gradient, x, (self.cfg.d_model,), mean, scale, None, None, (True, False, False)
        )[0]

    def heads(self, x: Tensor, block: str, names: str, trace: Trace) -> Float[Tensor, "model row n head d_head"]:
        """Several of queries, keys and values, of all heads."""
        weight = torch.stack([self.p[f"{block}.attn.W_{name}"] for name in names], 1)
        bias = torch.stack([self.p[f"{block}.attn.b_{name}"] for name in names], 1)
        weight = trace.joined[names] = weight.permute(0, 3, 1, 2, 4).flatten(2)  # [model, d_model, n * head * d_head]
        return self.linear(x, weight, bias.flatten(1)).unflatten(2, bias.shape[1:])

    def heads_backward(
        self, gradient: Float[Tensor, "model row n head d_head"], x: Tensor, block: str, names: str, trace: Trace
    ) -> Tensor:
        """Gradient by the input of `heads`."""
        self.keep_heads(gradient, x, block, names)
        return self.multiply(gradient.flatten(2), trace.joined[names].transpose(1, 2))

    def rotate(self, x: Tensor, positions: Tensor, sign: int = 1) -> Tensor:
        """Rotary embedding of `[model, pos, batch, head, d_head]`; backwards (the gradient's way) with sign -1."""
        cfg = self.cfg
        if cfg.positional_embedding_type != "rotary":
            return x
        frequency = cfg.rotary_base ** (
            torch.arange(cfg.rotary_dim // 2, dtype=x.dtype, device=x.device) / (cfg.rotary_dim / 2)
        )
        frequency = frequency.repeat_interleave(2) if cfg.rotary_adjacent_pairs else frequency.repeat(2)
        angle = (positions[..., None] / frequency)[..., None, :]
        turned, rest = x[..., : cfg.rotary_dim], x[..., cfg.rotary_dim :]
        if cfg.rotary_adjacent_pairs:
            flipped = torch.stack([-turned[..., 1::2], turned[..., ::2]], -1).flatten(-2)
        else:
            first, second = turned.chunk(2, -1)
            flipped = torch.cat([-second, first], -1)
        return torch.cat([turned * angle.cos() + sign * flipped * angle.sin(), rest], -1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor | None, trace: Trace) -> Tensor:
        """Mixed values `[model, row, head * d_head]`; `hidden` keys are not seen."""
        trace.q, trace.k, trace.v, trace.pattern = q, k, v, self.pattern(q, k, hidden)
        return _mix(trace.pattern, v).flatten(3).flatten(1, 2)

    def pattern(self, q: Tensor, k: Tensor, hidden: Tensor | None) -> Float[Tensor, "model query key batch head"]:
        """How much every query attends to every key."""
        scores = _dot(q, k).mul_(1 / self.cfg.attn_scale)
        if hidden is not None:
            scores.masked_fill_(hidden, -torch.inf)
        return scores.softmax(2)

    def attend_backward(self, gradient: Tensor, trace: Trace) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients by queries, keys and values."""
        q, k, v, pattern = trace.q, trace.k, trace.v, trace.pattern
        by_pattern = _dot(gradient, v).mul_(pattern)
        scores = by_pattern.sub_(pattern * by_pattern.sum(2, keepdim=True)).mul_(1 / self.cfg.attn_scale)
        return _mix(scores, k), _mix(scores.transpose(1, 2), q), _mix(pattern.transpose(1, 2), gradient)

    # --- gradients of parameters: summed over rows ---------------------------------------------------------

    def keep_linear(self, gradient: Tensor, x: Tensor, layer: str, which: str) -> None:
        """Of the weight and the bias of `linear`, from what went in and the gradient of what came out."""
        weight = f"{layer}.W{which}"
        self.gradients[weight] = self.multiply(x.transpose(1, 2), gradient).view(self.p[weight].shape)
        self.gradients[f"{layer}.b{which}"] = gradient.sum(1)

    def keep_heads(self, gradient: Float[Tensor, "model row n head d_head"], x: Tensor, block: str, names: str) -> None:
        """Of the weights and biases of `heads`."""
        shape = gradient.shape[2:]
        gradient = gradient.flatten(2)
        weights = self.multiply(x.transpose(1, 2), gradient).unflatten(2, shape).permute(2, 0, 3, 1, 4).contiguous()
        biases = gradient.sum(1).unflatten(1, shape).transpose(0, 1).contiguous()
        for name, weight, bias in zip(names, weights, biases, strict=True):
            self.gradients[f"{block}.attn.W_{name}"], self.gradients[f"{block}.attn.b_{name}"] = weight, bias

    def keep_normalization(self, gradient: Tensor, unit: Tensor, name: str) -> None:
        """Of the weights of `normalize`."""
        self.gradients[f"{name}.w"] = (gradient * unit).sum(1)
        if self.cfg.normalization_type == "LN":
            self.gradients[f"{name}.b"] = gradient.sum(1)

    def keep_embedding(self, gradient: Float[Tensor, "model row d_model"]) -> None:
        """Of the embeddings of tokens and positions."""
        p, at = self.p, self.at
        if self.cfg.positional_embedding_type == "standard":
            positions = self.gradients["pos_embed.W_pos"] = torch.zeros_like(p["pos_embed.W_pos"])
            positions[:, at.shared : at.n_pos] = at.by_position(gradient).sum(2)
            if at.shared:
                positions[:, 0] = gradient[:, 0]
        self.gradients["embed.W_E"] = _sum_by_entry(gradient, self.entries, p["embed.W_E"])

    # --- the whole -----------------------------------------------------------------------------------------

    def output(self) -> Output:
        """Logits and states at the asked positions, in the order of the batch."""
        self.for_gradients = False
        logits = self.forward()
        *before, last = self.residual
        return Output(self.at.by_batch(logits), [self.at.by_batch(x) for x in (*map(self.at.asked, before), last)])

    def loss_and_gradients(self, due: Int[Tensor, "model batch query"]) -> tuple[Float[Tensor, " model"], Parameters]:
        """Mean cross-entropy of each model in nats over the tokens due that are not padding; its gradients."""
        losses, gradient = cross_entropy(self.forward(), due.transpose(1, 2).flatten(1))
        return losses, self.backward(gradient)

    def states(self) -> States:
        """What is computed at the one asked position, in the order of the batch."""
        values = self.forward() if self.to_logits else self.blocks()

        def gradients(by_values: Float[Tensor, "model batch width"]) -> Parameters:
            return self.backward(by_values) if self.to_logits else self.blocks_backward(by_values)

        return States(values, gradients)

    def forward(self) -> Float[Tensor, "model row d_vocab"]:
        """Logits at the asked rows."""
        x = self.blocks()
        self.last = self.normalize(x, "ln_final", self.final)
        return self.linear(self.last, self.p["unembed.W_U"], self.p["unembed.b_U"])

    def blocks(self) -> Float[Tensor, "model row d_model"]:
        """The residual stream after the last block, at the asked rows."""
        cfg, p, at = self.cfg, self.p, self.at
        self.entries = self.tokens + torch.arange(at.n_models, device=self.tokens.device).unsqueeze(1) * cfg.d_vocab
        x = F.embedding(self.entries, p["embed.W_E"].flatten(0, 1))
        if cfg.positional_embedding_type == "standard":
            positions = p["pos_embed.W_pos"][:, : at.n_pos]
            at.by_position(x).add_(positions[:, at.shared :].unsqueeze(2))
            if at.shared:
                x[:, :1].add_(positions[:, :1])
        for layer in range(self.depth):
            x = self.block(x, layer)
            self.residual.append(x)
            if not self.for_gradients:
                self.trace[-1] = Trace()
        return x if self.depth else at.asked(x)

    def block(self, x: Tensor, layer: int) -> Tensor:
        """The residual stream after a block; after the last one, at the asked rows only."""
        p, at, block, last = self.p, self.at, f"blocks.{layer}", layer == self.depth - 1
        trace = Trace()
        self.trace.append(trace)
        normal = trace.normal = self.normalize(x, f"{block}.ln1", trace)
        if last:
            (q,) = self.heads(at.asked(normal), block, "Q", trace).unbind(2)
            k, v = self.heads(normal, block, "KV", trace).unbind(2)
            q = self.rotate(q.unflatten(1, (-1, at.n_batch)), at.asked_positions)
        else:
            q, k, v = self.heads(normal, block, "QKV", trace).unbind(2)
            q = self.rotate(at.by_position(q), at.own_positions)
        local = self.cfg.use_local_attn and self.cfg.attn_types[layer] == "local"
        if last:
            hidden = at.asked_locally_hidden if local else at.asked_hidden
        else:
            hidden = at.locally_hidden if local else at.hidden
        z = self.attend(q, self.rotate(at.everywhere(k), at.positions[:, None]), at.everywhere(v), hidden, trace)
        if last:
            x = at.asked(x)
        elif at.shared:  # the first position sees itself only
            z = torch.cat([v[:, :1].flatten(2), z], 1)
        trace.z = z
        x = self.linear(z, p[f"{block}.attn.W_O"].flatten(1, 2), p[f"{block}.attn.b_O"], onto=x)
        trace.normal_after = self.normalize(x, f"{block}.ln2", trace)
        hidden = trace.hidden = self.linear(trace.normal_after, p[f"{block}.mlp.W_in"], p[f"{block}.mlp.b_in"])
        active = trace.active = self.gated(F.gelu(hidden) if self.cfg.act_fn == "gelu" else F.relu(hidden))
        return self.linear(active, p[f"{block}.mlp.W_out"], p[f"{block}.mlp.b_out"], onto=x)

    def backward(self, gradient: Float[Tensor, "model row d_vocab"]) -> Parameters:
        """Gradients of all parameters from that of the logits."""
        g = self.linear_backward(gradient, self.last, "unembed", "_U")
        return self.blocks_backward(self.normalize_backward(g, "ln_final", self.final))

    def blocks_backward(self, g: Float[Tensor, "model row d_model"]) -> Parameters:
        """Gradients of the parameters that `blocks` uses, and of those kept so far, from that of what it returns."""
        if not self.depth:
            g = self.at.add_asked(g.new_zeros(*self.entries.shape, self.cfg.d_model), g)
        for layer in reversed(range(self.depth)):
            g = self.block_backward(g, layer)
        self.keep_embedding(g)
        return self.gradients

    def block_backward(self, g: Tensor, layer: int) -> Tensor:
        """Gradient of the residual stream before a block from that after it."""
        at, block, last, trace = self.at, f"blocks.{layer}", layer == self.depth - 1, self.trace[layer]
        inner = self.gated(self.linear_backward(g, trace.active, f"{block}.mlp", "_out"))
        if self.cfg.act_fn == "gelu":
            inner = torch.ops.aten.gelu_backward(inner, trace.hidden)
        else:
            inner = torch.ops.aten.threshold_backward(inner, trace.hidden, 0)
        inner = self.linear_backward(inner, trace.normal_after, f"{block}.mlp", "_in")
        g = g + self.normalize_backward(inner, f"{block}.ln2", trace)

        heads = (self.cfg.n_heads, self.cfg.d_head)
        z = self.linear_backward(g, trace.z, f"{block}.attn", "_O").unflatten(2, heads)
        q, k, v = self.attend_backward(z.unflatten(1, (-1, at.n_batch)) if last else at.by_position(z), trace)
        q = self.rotate(q, at.asked_positions if last else at.own_positions, -1)
        k = self.rotate(k, at.positions[:, None], -1)
        normal = trace.normal
        rows = g.new_empty((at.n_models, normal.shape[1], 2 if last else 3, *heads))
        at.gather(k, rows[:, :, -2])
        at.gather(v, rows[:, :, -1])
        if last:
            x = self.heads_backward(rows, normal, block, "KV", trace)
            x_asked = self.heads_backward(q.flatten(1, 2).unsqueeze(2), at.asked(normal), block, "Q", trace)
            return at.add_asked(self.normalize_backward(at.add_asked(x, x_asked), f"{block}.ln1", trace), g)
        at.by_position(rows[:, :, 0]).copy_(q)
        if at.shared:  # what the first position mixes is its own value, whatever its query
            rows[:, 0, 0] = 0
            rows[:, 0, 2] += z[:, 0]
        x = self.heads_backward(rows, normal, block, "QKV", trace)
        return self.normalize_backward(x, f"{block}.ln1", trace).add_(g)


def _dot(
    a: Float[Tensor, "model a batch head d_head"], b: Float[Tensor, "model b batch head d_head"]
) -> Float[Tensor, "model a b batch head"]:
    """Products of every position of one with every position of the other."""
    if b.shape[1] <= FEW_POSITIONS:
        return (a[:, :, None] * b[:, None]).sum(-1)
    return torch.einsum("mabhd,mcbhd->macbh", a, b)


def _mix(
    weight: Float[Tensor, "model a b batch head"], x: Float[Tensor, "model b batch head d_head"]
) -> Float[Tensor, "model a batch head d_head"]:
    """Weighted sums over positions."""
    if x.shape[1] <= FEW_POSITIONS:
        return (weight[..., None] * x[:, None]).sum(2)
    return torch.einsum("macbh,mcbhd->mabhd", weight, x)


Way = TypeVar("Way", "Stacked", "OneByOne")


def _some(network: Way, members: slice) -> Way:
    """What computes some members, all else shared with the whole."""
    if network.token_language is None:
        return network
    some = copy(network)
    some.token_language = network.token_language[members]
    return some


# --- one by one ----------------------------------------------------------------------------------------------


def _at_query(
    x: Float[Tensor, "batch pos width"], query: slice | Int[Tensor, "model batch query"], member: int
) -> Float[Tensor, "batch query width"]:
    """What a member has at the asked positions."""
    return x[:, query] if isinstance(query, slice) else x.gather(1, query[member][..., None].expand(-1, -1, x.shape[2]))


class OneByOne:
    """K models of any shape that TransformerLens computes, one after the other by `functional_call`."""

    def __init__(
        self,
        shape: Shape,
        device: torch.device | str = "cpu",
        bfloat16: bool = False,
        token_language: Int[Tensor, "model d_vocab"] | None = None,
    ) -> None:
        """`device` is that of the parameters."""
        self.model, self.bfloat16 = untrained(shape).to(device, print_details=False), bfloat16
        self.token_language = token_language

    def of(self, members: slice) -> OneByOne:
        """Itself where members differ in their parameters alone, or with what some know of their tokens' languages."""
        return _some(self, members)

    def _logits(self, parameters: Parameters, member: int, tokens: Int[Tensor, "batch pos"]) -> Tensor:
        own = {name: p[member] for name, p in parameters.items()}
        if self.token_language is not None:
            own["token_language"] = self.token_language[member]
        return logits_with(self.model, own, tokens)

    def forward(
        self, parameters: Parameters, tokens: Int[Tensor, "model batch pos"], query: Query = None, shared: int = 0
    ) -> Output:
        """What the K models compute at the asked positions; `shared` gains nothing here."""
        query = slice(0, tokens.shape[2]) if query is None else query
        members = []
        for member, own in enumerate(tokens):
            states: list[Tensor] = []
            hooks = [
                (f"blocks.{layer}.hook_resid_post", lambda state, hook, states=states: states.append(state))
                for layer in range(self.model.cfg.n_layers)
            ]
            with self.model.hooks(fwd_hooks=hooks):
                logits = self._logits(parameters, member, own)
            members.append([_at_query(x, query, member) for x in (logits, *states)])
        logits, *states = (torch.stack(xs) for xs in zip(*members, strict=True))
        return Output(logits, states)

    def loss_and_gradients(
        self,
        parameters: Parameters,
        tokens: Int[Tensor, "model batch pos"],
        due: Int[Tensor, "model batch query"],
        query: Query = None,
        shared: int = 0,
    ) -> tuple[Float[Tensor, " model"], Parameters]:
        """Mean cross-entropy of each model in nats over the `due` tokens that are not padding; its gradients."""
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        with torch.enable_grad(), torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.bfloat16):
            logits = self.forward(leaves, tokens, query).logits.flatten(1, 2)
        losses, gradient = cross_entropy(logits.detach().to(self.model.cfg.dtype), due.flatten(1))
        gradients = torch.autograd.grad(
            logits, list(leaves.values()), gradient.to(logits.dtype), materialize_grads=True
        )
        return losses, dict(zip(leaves, gradients, strict=True))

    def states(
        self,
        parameters: Parameters,
        tokens: Int[Tensor, "model batch pos"],
        layer: int | None,
        query: slice | Int[Tensor, "model batch 1"],
        shared: int = 0,
    ) -> States:
        """The residual stream after `layer` blocks at one position of each sequence; the logits where it is None."""
        leaves = {name: p.detach().requires_grad_() for name, p in parameters.items()}
        point = "blocks.0.hook_resid_pre" if layer == 0 else f"blocks.{(layer or 1) - 1}.hook_resid_post"
        members = []
        with torch.enable_grad(), torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.bfloat16):
            for member, own in enumerate(tokens):
                seen: list[Tensor] = []
                with self.model.hooks(fwd_hooks=[(point, lambda state, hook, seen=seen: seen.append(state))]):
                    logits = self._logits(leaves, member, own)
                members.append(_at_query(logits if layer is None else seen[0], query, member)[:, 0])
            values = torch.stack(members)

        def gradients(by_values: Float[Tensor, "model batch width"]) -> Parameters:
            found = torch.autograd.grad(values, list(leaves.values()), by_values.to(values.dtype), allow_unused=True)
            return {name: g for name, g in zip(leaves, found, strict=True) if g is not None}

        return States(values.detach().to(self.model.cfg.dtype), gradients)

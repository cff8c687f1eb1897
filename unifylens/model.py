"""The only place that builds a model: token IDs in, no tokenizer download.

With TransformerLens 3 it is a plain `HookedTransformer`; with 4, where that class is gone, a `TransformerBridge`.
Either way parameters have the names and shapes of `HookedTransformer`, in training as in the store.
"""

from __future__ import annotations

import math
import threading
import warnings
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from unifylens.config import ModelConfig
from unifylens.seeds import torch_seed

if TYPE_CHECKING:
    from unifylens.corpus.corpus import Corpus
    from unifylens.patching.stream import Model

try:
    from transformer_lens import HookedTransformer
    from transformer_lens import HookedTransformerConfig as Shape

    from unifylens import modular

    HOOKED = True
except ImportError:  # TransformerLens 4
    from transformer_lens.config import TransformerBridgeConfig as Shape

    from unifylens import native

    HOOKED = False

Parameters = dict[str, Tensor]
EXPERTS_PER_TOKEN = 2
"""With one, whose weight is then always 1, the router would have no gradient."""
PAD_ID = 0
"""Token ID of padding, as every corpus has it."""
LOCAL_WINDOW = 2
"""Positions that a token sees in a local block: its own and the one before."""

_ONE_AT_A_TIME = threading.Lock()  # the global generator and the warning filters belong to the whole process


class LanguageModules(NamedTuple):
    """Neurons of each block's MLP that are active in prompts of one language alone: the last ones, in its order."""

    n_neurons: int
    """Of each language."""
    n_languages: int
    token_language: Int[Tensor, " d_vocab"]
    """The one language that a token belongs to, or -1."""

    def gate(
        self, tokens: Int[Tensor, "model batch pos"], token_language: Int[Tensor, "model d_vocab"]
    ) -> Bool[Tensor, "model batch neuron"]:
        """Which neurons are of each prompt's language, that of its last token of one language alone; else none."""
        own = token_language.gather(1, tokens.flatten(1)).view_as(tokens)
        place = torch.arange(tokens.shape[2], device=tokens.device)
        last = ((own >= 0) * place).amax(2, keepdim=True)
        languages = torch.arange(self.n_languages * self.n_neurons, device=tokens.device) // self.n_neurons
        return own.gather(2, last) == languages


def modules_of(shape: Shape) -> LanguageModules | None:
    """A shape's modules of languages, which TransformerLens' own shapes have not."""
    return getattr(shape, "language_modules", None)


def shape_for(config: ModelConfig, corpus: Corpus) -> Shape:
    """TransformerLens' configuration of a model of a corpus, told whose tokens are whose where it has modules."""
    languages = torch.from_numpy(corpus.token_language) if config.language_neurons else None
    return shape_of(config, corpus.d_vocab, corpus.n_ctx, languages)


def shape_of(
    config: ModelConfig, d_vocab: int, n_ctx: int, token_language: Int[Tensor, " d_vocab"] | None = None
) -> Shape:
    """TransformerLens' configuration of a model; with `language_neurons` it needs to know the language of each token.

    Raises ValueError where it does not, or where TransformerLens 4 is to compute them.
    """
    shape = _plain_shape(config, d_vocab, n_ctx)
    if config.language_neurons == 0:
        return shape
    said = f"language_neurons={config.language_neurons}"
    if not HOOKED:
        raise ValueError(
            f"{said} needs TransformerLens 3.9 (pip install 'transformer-lens<4'); allowed with "
            f"{version('transformer-lens')}: 0."
        )
    if token_language is None or token_language.shape != (d_vocab,):
        raise ValueError(
            f"{said} needs token_language, the one language of each token or -1; allowed: d_vocab={d_vocab} of them."
        )
    n_languages = max(1, int(token_language.max()) + 1)
    if config.language_neurons * n_languages > config.d_mlp:
        raise ValueError(f"{said}; allowed for {n_languages} languages: at most {config.d_mlp // n_languages}.")
    shape.language_modules = LanguageModules(config.language_neurons, n_languages, token_language)
    return shape


def _plain_shape(config: ModelConfig, d_vocab: int, n_ctx: int) -> Shape:
    d_head = config.d_model // config.n_heads
    shape = Shape(
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_ctx=n_ctx,
        d_head=d_head,
        n_heads=config.n_heads,
        d_mlp=config.d_mlp,
        act_fn=config.act_fn,
        d_vocab=d_vocab,
        d_vocab_out=d_vocab,
        attn_scale=np.sqrt(d_head),
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
    )
    if config.n_experts is not None:
        shape.num_experts, shape.experts_per_token, shape.norm_topk_prob = config.n_experts, EXPERTS_PER_TOKEN, True
    shape.pad_token_id = PAD_ID  # which configurations of `transformers` have, too
    return shape


def build_model(
    config: ModelConfig,
    d_vocab: int,
    n_ctx: int,
    seed: int = 0,
    token_language: Int[Tensor, " d_vocab"] | None = None,
) -> Model:
    """An untrained model; the same shape and seed give the same weights, whatever the global generators hold.

    With `language_neurons` it needs the one language of each token, or -1. Raises ValueError without.
    """
    return untrained(shape_of(config, d_vocab, n_ctx, token_language), seed)


def untrained_like(model: Model, seed: int = 0) -> Model:
    """A fresh model of the same shape: the control that has learnt nothing."""
    return untrained(model.cfg, seed)


def untrained(shape: Shape, seed: int = 0) -> Model:
    """An untrained model of a shape."""
    if HOOKED and shape.num_experts:  # whose layers draw weights that they do not keep
        return with_parameters(shape, initial_parameters(shape, seed))
    return _hooked(shape, seed) if HOOKED else native.bridge(shape, initial_parameters(shape, seed))


def with_parameters(shape: Shape, parameters: Parameters) -> Model:
    """A model of a shape that has these parameters."""
    if not HOOKED:
        return native.bridge(shape, parameters)
    model = _hooked(shape)
    model.load_state_dict(parameters, strict=False)  # but for masks, which it makes itself
    return model


def logits_with(model: Model, parameters: Parameters, tokens: Tensor) -> Tensor:
    """Logits with these parameters in place of the model's own; gradients pass through."""
    own, named = (model, parameters) if HOOKED else native.named(model, parameters)
    return torch.func.functional_call(own, named, (tokens,))


def _hooked(shape: Shape, seed: int = 0) -> Any:
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="HookedTransformer is deprecated", category=DeprecationWarning)
        torch.manual_seed(torch_seed(seed, "initial weights"))
        kind = HookedTransformer if modules_of(shape) is None else modular.ModularTransformer
        return kind(shape, move_to_device=False)


def initial_parameters(shape: Shape, seed: int = 0) -> Parameters:
    """What an untrained `HookedTransformer` of a dish's shape has, drawn in its order, bit by bit."""
    generator = torch.Generator().manual_seed(torch_seed(seed, "initial weights"))
    parameters = {}
    for name, size in _sizes(shape).items():
        parameters[name] = torch.full(size, float(name.endswith(".w")), dtype=shape.dtype)
        if ".W_" in name:
            parameters[name].normal_(std=shape.initializer_range, generator=generator)
    return parameters


def without_numbers(shape: Shape) -> Parameters:
    """Parameters of one model with a leading 1 that have sizes alone, on torch's meta device."""
    return {name: torch.empty((1, *size), dtype=shape.dtype, device="meta") for name, size in _sizes(shape).items()}


def n_parameters(config: ModelConfig, d_vocab: int, n_ctx: int) -> int:
    """Number of trained numbers of a model of this shape, without building it."""
    return sum(map(math.prod, _sizes(_plain_shape(config, d_vocab, n_ctx)).values()))


def _sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Sizes of a `HookedTransformer`'s parameters by name, in its order."""
    d, d_mlp, heads, d_head = shape.d_model, shape.d_mlp, shape.n_heads, shape.d_head
    norm = {"LN": {"w": (d,), "b": (d,)}, "RMS": {"w": (d,)}}.get(shape.normalization_type, {})
    reads, writes, by_head = (heads, d, d_head), (heads, d_head, d), (heads, d_head)
    attn = {"W_Q": reads, "W_O": writes, "b_Q": by_head, "b_O": (d,)}
    attn |= {"W_K": reads, "W_V": reads, "b_K": by_head, "b_V": by_head}
    order = ("W_in", "W_out", "W_gate", "b_in", "b_out") if shape.gated_mlp else ("W_in", "b_in", "W_out", "b_out")
    mlp = {"W_in": (d, d_mlp), "W_gate": (d, d_mlp), "W_out": (d_mlp, d), "b_in": (d_mlp,), "b_out": (d,)}
    mlp = {name: mlp[name] for name in order}
    if shape.num_experts:
        expert = {"W_in.weight": (d_mlp, d), "W_out.weight": (d, d_mlp), "W_gate.weight": (d_mlp, d)}
        mlp = {f"experts.{n}.{name}": size for n in range(shape.num_experts) for name, size in expert.items()}
        mlp["W_gate.weight"] = (shape.num_experts, d)
    block = {"ln1": norm, "attn": attn} if shape.attn_only else {"ln1": norm, "ln2": norm, "attn": attn, "mlp": mlp}
    parts = {"embed": {"W_E": (shape.d_vocab, d)}}
    if shape.positional_embedding_type == "standard":
        parts["pos_embed"] = {"W_pos": (shape.n_ctx, d)}
    parts |= {f"blocks.{n}.{part}": sizes for n in range(shape.n_layers) for part, sizes in block.items()}
    parts |= {"ln_final": norm, "unembed": {"W_U": (d, shape.d_vocab), "b_U": (shape.d_vocab,)}}
    return {f"{part}.{name}": size for part, sizes in parts.items() for name, size in sizes.items()}

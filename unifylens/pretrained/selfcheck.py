"""Whether a wrapped model computes what transformers computes: logits and states of a few tokens, whole and cached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from importlib import metadata
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from unifylens.patching.stream import LAST_STEP, layer_names

PREFIX, REST = 32, 8
"""Tokens that are run as a prefix, and on its cache."""
TOLERANCE = 1e-5
"""Largest difference, in sizes of the largest number of the layer (at least 1)."""
ROUNDING = 1e-4
"""Difference that rounding alone may make in deep models, where shapes of matrix products differ."""


class Pass(NamedTuple):
    """What a model computes."""

    logits: Float[Tensor, "row pos d_vocab"]
    states: list[Float[Tensor, "row pos d_model"]]
    cache: Any = None


def wrapped(
    name: str, model: Any, wrap: Callable[[], TransformerBridge], tokens: Int[Tensor, "1 pos"]
) -> TransformerBridge:
    """The bridge that `wrap` makes of a model of transformers, compared with the model as it was before.

    The model runs once. The bridge runs once, most of the tokens as a prefix whose cache the others go on with, in two
    rows, as `asking` does. What differs by no more than rounding is equal.

    Raises ValueError, naming the family, for a model that is not causal, that keeps no such cache, that TransformerLens
    cannot wrap, or that differs, saying where and by how much.
    """
    family = f"{name} (family {model.config.model_type!r})"
    version = metadata.version("transformer-lens")
    elsewhere = f"allowed: a family of the README's list, or another version of TransformerLens (this is {version})"
    prefix = max(1, tokens.shape[1] - REST)
    with torch.no_grad():
        out = model(tokens, output_hidden_states=True, use_cache=False)
        # the last of them is normalised
        due = Pass(out.logits, list(out.hidden_states[:-1]))
        if not due.logits.isfinite().all():
            raise ValueError(f"{family} gives numbers that are not finite; allowed: undamaged weights")
        try:
            bridge = wrap()
        except Exception as error:  # each adapter fails in its own way
            raise ValueError(f"{family} cannot be wrapped by TransformerLens ({line(error)}); {elsewhere}") from error
        try:
            before = _pass(bridge, tokens[:, :prefix])
        except Exception as error:
            raise ValueError(f"{family} cannot run in TransformerLens ({line(error)}); {elsewhere}") from error
        apart = distance(before, due, slice(None, prefix))
        slack = TOLERANCE if apart <= TOLERANCE else _rounding(family, elsewhere, bridge, tokens, due, before)
        try:
            cache = copies(before.cache, 2)
            cache.batch_select_indices(torch.tensor([0, 1], device=tokens.device))
            after = _pass(bridge, tokens[:, prefix:].expand(2, -1), cache)
        except Exception as error:
            raise ValueError(
                f"{family} keeps no key-value cache that several answers can go on from ({line(error)}); allowed: "
                "models of attention alone, not state-space, recurrent or mixed ones"
            ) from error
        apart = distance(after, due, slice(prefix, None))
        if not apart <= slack:
            slack = max(TOLERANCE, _rounding(family, elsewhere, bridge, tokens, due, before))
        if not apart <= slack:
            raise ValueError(
                f"{family} differs in TransformerLens from what transformers computes where it goes on from a cached "
                f"prefix, by {apart:.1g} of the largest number; {elsewhere}"
            )
    return bridge


def copies(cache: Any, n: int) -> Any:
    """A key-value cache for `n` rows, to be written to."""
    cache = copy.deepcopy(cache)
    if cache is not None:
        cache.batch_repeat_interleave(n)
    return cache


def few_tokens(name: str, model: Any, tokenizer: Any, longest: int | None) -> Int[Tensor, "1 pos"]:
    """Random tokens of the vocabulary, none of them special: enough for positions and windows to matter.

    Raises ValueError if there are none.
    """
    known = torch.ones(min(len(tokenizer), model.get_input_embeddings().weight.shape[0]), dtype=torch.bool)
    known[[i for i in tokenizer.all_special_ids if i < len(known)]] = False
    known = known.nonzero()[:, 0]
    if not len(known):
        raise ValueError(
            f"{name} has a tokenizer of special tokens only; allowed: the tokenizer that it was trained with"
        )
    n = min(PREFIX + REST, longest or PREFIX + REST)
    return known[torch.randint(len(known), (1, n), generator=torch.Generator().manual_seed(0))].to(model.device)


def distance(ours: Pass, due: Pass, positions: slice) -> float:
    """Largest difference of logits and of states in any layer, in sizes of the largest number there (at least 1)."""
    apart = [float("inf")] if len(ours.states) != len(due.states) else []
    for mine, theirs in zip((ours.logits, *ours.states), (due.logits, *due.states), strict=False):
        if mine.shape[-1] != theirs.shape[-1]:
            return float("inf")
        size = max(1.0, float(theirs.abs().max()))
        apart.append(float((mine - theirs[:, positions]).abs().max().nan_to_num(float("inf"))) / size)
    return max(apart)


def _pass(bridge: TransformerBridge, tokens: Int[Tensor, "row pos"], cache: Any = None) -> Pass:
    """The bridge as `asking` enters it, with hooks before each layer and before the unembedding."""
    rows, kept = tokens.shape[0], {}

    def keep(state: Tensor, *, layer: str, **_: Any) -> None:
        kept[layer] = state

    names = layer_names(bridge.cfg.n_layers)[:-1]
    hooks = [(layer, partial(keep, layer=layer)) for layer in names]
    with bridge.hooks([*hooks, (LAST_STEP, lambda state, **_: state.flatten(0, 1))]):
        out = bridge.original_model(tokens, past_key_values=cache, use_cache=True)
    return Pass(out.logits.unflatten(0, (rows, -1)), [kept[layer] for layer in names], out.get("past_key_values"))


def _rounding(
    family: str, elsewhere: str, bridge: TransformerBridge, tokens: Int[Tensor, "1 pos"], due: Pass, before: Pass
) -> float:
    """How far rounding takes apart what is run whole and as a prefix: one more pass, which only doubt asks for.

    Raises ValueError for a model that differs from transformers, or that is not causal.
    """
    whole = _pass(bridge, tokens)
    apart = distance(whole, due, slice(None))
    if not apart <= TOLERANCE:
        raise ValueError(
            f"{family} differs in TransformerLens from what transformers computes when run whole, by {apart:.1g} of "
            f"the largest number; {elsewhere}"
        )
    rounding = distance(before, whole, slice(None, before.logits.shape[1]))
    if not rounding <= ROUNDING:
        raise ValueError(
            f"{family} is not causal: what it says of a prefix changes when later tokens come, by {rounding:.1g} of "
            "the largest number; allowed: models that predict the next token (decoders)"
        )
    return 2 * rounding


def line(error: Exception) -> str:
    """The error's first line, cut."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return text if len(text) <= 200 else f"{text[:200]}..."

"""Whether a wrapped model computes what transformers computes: logits and states of a few tokens, whole and cached."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import metadata
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from unifylens.patching.stream import LAST_STEP, layer_names

PREFIX, REST = 24, 6
"""Tokens that are run as a prefix, and on its cache."""
TOLERANCE = 1e-5
"""Largest difference, in sizes of the largest number of the layer (at least 1)."""
ROUNDING = 1e-4
"""Difference that rounding alone may make in deep models, where shapes of matrix products differ."""
DIFFERS = "differs in TransformerLens from what transformers computes"


class Pass(NamedTuple):
    """What a model computes."""

    logits: Float[Tensor, "row pos d_vocab"]
    states: list[Float[Tensor, "row pos d_model"]]
    past: Any = None

    def at(self, positions: slice) -> Pass:
        """What it computes at some positions."""
        return Pass(self.logits[:, positions], [states[:, positions] for states in self.states])


def wrapped(
    name: str, model: Any, wrap: Callable[[], TransformerBridge], tokens: Int[Tensor, "row pos"]
) -> TransformerBridge:
    """The bridge that `wrap` makes of a model of transformers, compared with the model as it was before.

    The rows of `tokens` differ in the last `REST` alone. The model runs once. The bridge runs once, most of the tokens
    as a prefix whose cache the rows go on with, as `asking` does. What differs by no more than rounding is equal.

    Raises ValueError, naming the family, for a model that is not causal, that keeps no such cache, that TransformerLens
    cannot wrap, or that differs, saying where and by how much.
    """
    version = metadata.version("transformer-lens")
    elsewhere = f"a family in docs/howto/families.md, or another version of TransformerLens (this is {version})"

    def refusal(reason: str, allowed: str = elsewhere) -> ValueError:
        return ValueError(f"{name} (family {model.config.model_type!r}) {reason}; allowed: {allowed}")

    @contextmanager
    def refused(reason: str, allowed: str = elsewhere) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # families and TransformerLens' adapters fail each in its own way
            raise refusal(f"{reason} ({line(error)})", allowed) from error

    @cache
    def rounding() -> float:
        """How far rounding takes apart what is run whole and as a prefix: one more pass, which doubt asks for."""
        whole = _pass(bridge, tokens)
        apart, what = distance(whole, due)
        if not apart <= TOLERANCE:
            raise refusal(f"{DIFFERS} when run whole, by {apart:.1g} of the largest of {what}")
        apart, what = distance(before, whole.at(slice(None, prefix)))
        if not apart <= ROUNDING:
            change = f"what it says of a prefix changes when later tokens come, by {apart:.1g} of the largest of {what}"
            raise refusal(f"is not causal ({change})", "models that predict the next token (decoders)")
        return max(TOLERANCE, 2 * apart)

    prefix = max(1, tokens.shape[1] - REST)
    with torch.no_grad():
        with refused("cannot run in transformers", "another model"):
            due = _due(model, tokens)
        if not due.logits.isfinite().all():
            raise refusal("gives numbers that are not finite", "undamaged weights")
        with refused("cannot be wrapped by TransformerLens"):
            bridge = wrap()
        with refused("cannot run in TransformerLens"):
            before = _pass(bridge, tokens[:1, :prefix])
        if not distance(before, due.at(slice(None, prefix)))[0] <= TOLERANCE:
            rounding()
        with refused("keeps no key-value cache that several answers can go on from", "models of attention alone"):
            past = copies(before.past, len(tokens))
            past.batch_select_indices(torch.arange(len(tokens), device=tokens.device))
            after = _pass(bridge, tokens[:, prefix:], past)
        apart, what = distance(after, due.at(slice(prefix, None)))
        if not apart <= TOLERANCE and not apart <= rounding():
            raise refusal(f"{DIFFERS} where it goes on from a cached prefix, by {apart:.1g} of the largest of {what}")
    return bridge


def copies(past: Any, n: int) -> Any:
    """A key-value cache for `n` rows, to be written to."""
    past = copy.deepcopy(past)
    if past is not None:
        past.batch_repeat_interleave(n)
    return past


def few_tokens(name: str, model: Any, tokenizer: Any, longest: int | None) -> Int[Tensor, "2 pos"]:
    """Random tokens of the vocabulary, none of them special: enough for positions and windows to matter.

    The rows begin alike and go on with different tokens, as answers do.

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
    rest = min(REST, n - 1)
    drawn = torch.randint(len(known), (n + rest,), generator=torch.Generator().manual_seed(0))
    rows = torch.stack([drawn[:n], torch.cat([drawn[: n - rest], drawn[n:]])])
    return known[rows].to(model.device)


def distance(ours: Pass, due: Pass) -> tuple[float, str]:
    """Largest difference of logits and of states in any layer, in sizes of the largest number there, and where."""
    if len(ours.states) != len(due.states):
        return float("inf"), "states (of another number of layers)"
    names = ["logits", *(f"states of layer {layer}" for layer in range(len(due.states)))]
    apart = []
    for mine, theirs in zip((ours.logits, *ours.states), (due.logits, *due.states), strict=True):
        same = mine.shape[1:] == theirs.shape[1:]
        difference = float((mine - theirs).abs().max().nan_to_num(float("inf"))) if same else float("inf")
        apart.append(difference / max(1.0, float(theirs.abs().max())))
    return max(zip(apart, names, strict=True))


def _due(model: Any, tokens: Int[Tensor, "row pos"]) -> Pass:
    """What transformers computes; the last of its hidden states is normalised, so the last block is listened to."""
    lists = (module for module in model.modules() if isinstance(module, torch.nn.ModuleList))
    blocks = next(blocks for blocks in lists if len(blocks) == model.config.num_hidden_layers)
    kept: list[Tensor] = []
    handle = blocks[-1].register_forward_hook(
        lambda _, given, made: kept.append(made if torch.is_tensor(made) else made[0])
    )
    try:
        out = model(tokens, output_hidden_states=True, use_cache=False)
    finally:
        handle.remove()
    states = list(out.hidden_states[:-1])
    return Pass(out.logits, [*states, kept[0].view_as(states[-1])])


def _pass(bridge: TransformerBridge, tokens: Int[Tensor, "row pos"], past: Any = None) -> Pass:
    """The bridge as `asking` enters it, with hooks before each layer and before the unembedding."""
    rows, kept = tokens.shape[0], {}

    def keep(state: Tensor, *, layer: str, **_: Any) -> None:
        kept[layer] = state

    names = layer_names(bridge.cfg.n_layers)
    hooks = [(layer, partial(keep, layer=layer)) for layer in names]
    with bridge.hooks([*hooks, (LAST_STEP, lambda state, **_: state.flatten(0, 1))]):
        out = bridge.original_model(tokens, past_key_values=past, use_cache=True)
    return Pass(out.logits.unflatten(0, (rows, -1)), [kept[layer] for layer in names], out.get("past_key_values"))


def line(error: Exception) -> str:
    """The error's first sentence, cut."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0].split(". ")[0]
    return text if len(text) <= 200 else f"{text[:200]}..."

"""What a pass holds at most: it is run without numbers (torch's meta device), and its tensors are counted."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unifylens.config import ModelConfig
from unifylens.corpus.corpus import Corpus
from unifylens.model import shape_of, without_numbers
from unifylens.training.stack import ACTIVATIONS, Stacked


class Asked(NamedTuple):
    """Shape of a batch: what goes in, and where tokens are due."""

    n_in: int
    """Positions that go in."""
    n_due: int
    """Tokens due in an example."""
    first: int | None
    """Position of the first, where it is the same in all examples and the others follow it."""
    shared: int
    """Positions, from the first, that hold the same token in a whole batch and are not asked for."""

    @classmethod
    def of(cls, corpus: Corpus, loss: str) -> Asked:
        """As `Batches` has it."""
        if loss == "full":
            return cls(corpus.n_ctx - 1, corpus.n_ctx - 1, 0, 0)
        at = corpus.answer_positions
        first, last, n_due = int(at.min()), int(at.max()), at.shape[-1]
        same = n_due == last + 1 - first and bool((at == torch.arange(first, last + 1)).all())
        return cls(last + 1, n_due, first if same else None, int(first > 0))


class _Counter(TorchDispatchMode):
    """Bytes of the tensors made while it is on: those that are alive, and the most that were at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.alive = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:
            self._known.add(key)
            self.alive += size
            self.most = max(self.most, self.alive)
            weakref.finalize(storage, self._freed, key, size)

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.alive -= size


def _most_alive(function: Callable[[], Any]) -> int:
    """Most bytes that a function holds at any time, its result included."""
    counter = _Counter()
    try:
        with torch.no_grad(), counter:
            function()
    except RuntimeError:  # more bytes than can be counted
        return sys.maxsize
    return counter.most


def _network(config: ModelConfig, d_vocab: int, n_ctx: int) -> tuple[Stacked, dict[str, torch.Tensor]]:
    """What computes one model; shapes that train one by one hold about what the nearest stacked shape holds."""
    near: dict[str, Any] = {"act_fn": config.act_fn if config.act_fn in ACTIVATIONS else "gelu"}
    near |= {"attn_only": False, "gated_mlp": False, "parallel_attn_mlp": False}
    if config.n_experts is not None:  # all of whose weights have gradients
        near |= {"n_experts": None, "d_mlp": config.n_experts * config.d_mlp}
    languages = None
    if config.language_neurons:  # the most that there may be
        languages = torch.full((d_vocab,), config.d_mlp // config.language_neurons - 1)
    shape = shape_of(config.model_copy(update=near), d_vocab, n_ctx, languages)
    return Stacked(shape), without_numbers(shape)


FEW_BLOCKS = 3
"""Blocks after which every other holds as much as the one before."""


def _by_blocks(bytes_of: Callable[[ModelConfig], int], config: ModelConfig) -> int:
    """What a model of many blocks holds, from two models of few."""
    if config.n_layers <= FEW_BLOCKS + 1:
        return bytes_of(config)
    few, more = (
        bytes_of(config.model_copy(update={"n_layers": n, "local_blocks": min(config.local_blocks, n - 1)}))
        for n in (FEW_BLOCKS, FEW_BLOCKS + 1)
    )
    return few + (config.n_layers - FEW_BLOCKS) * (more - few)


@lru_cache(maxsize=256)
def bytes_of_step(
    config: ModelConfig, d_vocab: int, n_ctx: int, batch_size: int, asked: Asked, bfloat16: bool = False
) -> int:
    """Most bytes that one model holds in a step: activations, and gradients as they come."""

    def bytes_of(config: ModelConfig) -> int:
        network, parameters = _network(config, d_vocab, n_ctx)
        network.bfloat16 = bfloat16
        tokens = torch.zeros(1, batch_size, asked.n_in, dtype=torch.long, device="meta")
        due = torch.zeros(1, batch_size, asked.n_due, dtype=torch.long, device="meta")
        query = due if asked.first is None else slice(asked.first, asked.first + asked.n_due)
        return _most_alive(lambda: network.loss_and_gradients(parameters, tokens, due, query, asked.shared))

    return _by_blocks(bytes_of, config)


@lru_cache(maxsize=256)
def bytes_of_forward(config: ModelConfig, d_vocab: int, n_ctx: int, n_rows: int, asked: Asked) -> int:
    """Most bytes that one model holds while it answers rows of prompts."""

    def bytes_of(config: ModelConfig) -> int:
        network, parameters = _network(config, d_vocab, n_ctx)
        tokens = torch.zeros(1, n_rows, asked.n_in, dtype=torch.long, device="meta")
        anywhere = torch.zeros(1, n_rows, 1, dtype=torch.long, device="meta")
        query = anywhere if asked.first is None else slice(asked.n_in - 1, asked.n_in)
        return _most_alive(lambda: network.forward(parameters, tokens, query, asked.shared))

    return _by_blocks(bytes_of, config)

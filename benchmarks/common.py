"""What every route shares; torch is not imported here, so that a route's own process decides when it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Size:
    """Shape of model and batch; sequences start with one `<bos>` and end with `n_answer` tokens to be predicted."""

    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4
    d_mlp: int = 256
    d_vocab: int = 876
    batch: int = 256
    length: int = 4
    n_answer: int = 1
    n_rows: int = 9600
    """Sequences in the data set from which batches are drawn."""


SIZES = {
    "default": Size(),
    "wide": Size(d_model=128, n_layers=4, d_mlp=512),
    "multi-token": Size(length=8, n_answer=3),
}


@dataclass(frozen=True)
class Training:
    """Models in training, as a route builds them."""

    step: Callable[[], Any]
    """Trains all models and returns their mean loss as a tensor, or None where the route does not say it."""
    n_models: int
    n_steps: int = 1
    """Optimiser steps of every model in one call of `step`."""
    counted: Callable[[], Any] | None = None
    """One step of every model in the calling thread, for counting operations, where `step` uses several threads."""

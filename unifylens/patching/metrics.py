"""Metrics: from the logits of rows to one number."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.patching.tensors import as_tensor, at_least_single


class Metric:
    """A number for each row's logits, averaged: `metric(logits[row, vocab]) -> float`."""

    def __init__(self, value: Callable[..., Float[Tensor, " row"]], *columns: ArrayLike | Tensor) -> None:
        """`value(logits, *columns)` is called with some of the rows at a time; `columns` have an entry for each row.

        Columns may be lists, numpy arrays or columns of pandas. Raises ValueError for one that is a single number.
        """
        self.value = value
        self.columns = tuple(map(_column, columns))

    def __call__(self, logits: Float[Tensor, "row vocab"]) -> float:
        """Mean over all rows. Raises ValueError for another number of rows, or values that are not one a row."""
        for column in self.columns:
            if len(column) != len(logits):
                raise ValueError(f"logits has {len(logits)} rows, but the metric was made for {len(column)}.")
        return float(self._values(logits, self.columns).double().mean())

    def at(self, rows: Int[Tensor, " chosen"], logits: Float[Tensor, "chosen vocab"]) -> Float[Tensor, " chosen"]:
        """Values of some rows. Raises ValueError where they are not one a row."""
        return self._values(logits, [column[rows].to(logits.device) for column in self.columns])

    def _values(self, logits: Float[Tensor, "row vocab"], columns: Sequence[Tensor]) -> Float[Tensor, " row"]:
        values = self.value(at_least_single(logits), *columns)
        if not isinstance(values, Tensor) or values.shape != (len(logits),):
            shape = list(getattr(values, "shape", ()))
            shapes = ", ".join(str(list(column.shape)) for column in columns) or "none"
            raise ValueError(
                f"the metric's values have shape {shape} for {len(logits)} rows, with columns of shape "
                f"{shapes}; allowed: one number a row."
            )
        return values


def logit_difference(right: ArrayLike | Tensor, wrong: ArrayLike | Tensor) -> Metric:
    """Logit of one token less that of another `[row]`, in nats."""
    return Metric(lambda logits, r, w: _logit(logits, r) - _logit(logits, w), _tokens(right), _tokens(wrong))


def probability(token: ArrayLike | Tensor) -> Metric:
    """Probability of a token `[row]`, 0 to 1."""
    return Metric(lambda logits, due: _logit(logits, due).sub(logits.logsumexp(-1)).exp(), _tokens(token))


def answered(token: ArrayLike | Tensor) -> Metric:
    """Share of rows whose likeliest token is the given one `[row]`.

    >>> logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    >>> ul.patching.answered(torch.tensor([1, 1]))(logits)
    0.5
    """
    return Metric(lambda logits, due: (logits.argmax(-1) == _inside(due, logits)).float(), _tokens(token))


def answered_among(allowed: ArrayLike | Tensor) -> Metric:
    """Share of rows whose likeliest token is one of those allowed there `[row, vocab]`, such as any in one language."""
    mask = _column(allowed)
    if mask.dtype != torch.bool or mask.ndim != 2:
        raise ValueError(f"allowed is {mask.dtype} of shape {list(mask.shape)}; it must be a mask [row, vocab].")

    def value(logits: Float[Tensor, "row vocab"], mask: Bool[Tensor, "row vocab"]) -> Float[Tensor, " row"]:
        if mask.shape != logits.shape:
            raise ValueError(f"allowed has {mask.shape[1]} tokens a row; the vocabulary has {logits.shape[1]}.")
        return mask.gather(1, logits.argmax(-1, keepdim=True))[:, 0].float()

    return Metric(value, mask)


def _column(values: ArrayLike | Tensor) -> Tensor:
    """As a tensor, wherever it came from."""
    column = as_tensor(values)
    if not column.ndim:
        raise ValueError(f"a metric's column is the single number {column.item()}; allowed: an entry for each row.")
    return column


def _tokens(values: ArrayLike | Tensor) -> Int[Tensor, " row"]:
    """A column of token IDs."""
    if isinstance(values, Sequence) and (words := [value for value in values if isinstance(value, str)]):
        raise ValueError(f"the metric's tokens are words, such as {words[0]!r}; allowed: token IDs [row].")
    tokens = _column(values)
    if tokens.ndim != 1 or tokens.is_floating_point() or tokens.dtype == torch.bool:
        raise ValueError(
            f"the metric's tokens are {tokens.dtype} of shape {list(tokens.shape)}; allowed: one token ID a row, [row]."
        )
    return tokens.long()


def _inside(token: Int[Tensor, " row"], logits: Float[Tensor, "row vocab"]) -> Int[Tensor, " row"]:
    if len(token) and (int(token.min()) < 0 or int(token.max()) >= logits.shape[-1]):
        raise ValueError(
            f"the metric's tokens are from {token.min()} to {token.max()}; allowed: token IDs from 0 to "
            f"{logits.shape[-1] - 1}."
        )
    return token


def _logit(logits: Float[Tensor, "row vocab"], token: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    return logits.gather(-1, _inside(token, logits)[:, None])[:, 0]

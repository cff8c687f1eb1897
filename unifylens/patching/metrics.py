"""Metrics: from the logits of rows to one number."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Bool, Float, Int
from torch import Tensor


class Metric:
    """A number for each row's logits, averaged: `metric(logits[row, vocab]) -> float`."""

    def __init__(self, value: Callable[..., Float[Tensor, " row"]], *columns: Tensor) -> None:
        """`value(logits, *columns)` is called with some of the rows at a time; `columns` have an entry for each row."""
        self.value = value
        self.columns = columns

    def __call__(self, logits: Float[Tensor, "row vocab"]) -> float:
        """Mean over all rows. Raises ValueError for another number of rows."""
        for column in self.columns:
            if len(column) != len(logits):
                raise ValueError(f"logits has {len(logits)} rows, but the metric was made for {len(column)}.")
        return float(self.value(logits, *self.columns).double().mean())

    def at(self, rows: Int[Tensor, " chosen"], logits: Float[Tensor, "chosen vocab"]) -> Float[Tensor, " chosen"]:
        """Values of some rows."""
        return self.value(logits, *(column[rows].to(logits.device) for column in self.columns))


def logit_difference(right: Int[Tensor, " row"], wrong: Int[Tensor, " row"]) -> Metric:
    """Logit of one token less that of another, in nats."""
    return Metric(lambda logits, r, w: _logit(logits, r) - _logit(logits, w), right, wrong)


def probability(token: Int[Tensor, " row"]) -> Metric:
    """Probability of a token, 0 to 1."""
    return Metric(lambda logits, due: _logit(logits, due).sub(logits.logsumexp(-1)).exp(), token)


def answered(token: Int[Tensor, " row"]) -> Metric:
    """Share of rows whose likeliest token is the given one.

    >>> logits = torch.tensor([[0.0, 2.0], [1.0, 0.0]])
    >>> ul.patching.answered(torch.tensor([1, 1]))(logits)
    0.5
    """
    return Metric(lambda logits, due: (logits.argmax(-1) == due).float(), token)


def answered_among(allowed: Bool[Tensor, "row vocab"]) -> Metric:
    """Share of rows whose likeliest token is one of those allowed there, such as any answer in one language."""
    return Metric(lambda logits, mask: mask.gather(1, logits.argmax(-1, keepdim=True))[:, 0].float(), allowed)


def _logit(logits: Float[Tensor, "row vocab"], token: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    if token.is_floating_point() or int(token.min()) < 0 or int(token.max()) >= logits.shape[-1]:
        raise ValueError(
            f"the metric's tokens are {token.dtype}, from {token.min()} to {token.max()}; allowed: token IDs from 0 to "
            f"{logits.shape[-1] - 1}."
        )
    return logits.gather(-1, token[:, None])[:, 0]

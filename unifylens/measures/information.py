"""Entropies and mutual information, in bits, of finite tables of counts or probabilities."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray

__all__ = ["conditional_entropy", "conditional_mutual_information", "entropy", "mutual_information"]


def entropy(p: Float[ndarray, " ..."]) -> float:
    """Shannon entropy `H(P)` in bits of a table of any shape, taken as one distribution.

    The table is non-negative and need not be normalised; empty cells count nothing (`0 log 0 = 0`).
    Raises ValueError for a table that is empty, all zero, negative or not finite.
    """
    return _entropy(_distribution(p, "p", ndim=None))


def conditional_entropy(joint: Float[ndarray, "a b"]) -> float:
    """Conditional entropy `H(A | B)` in bits of a table `[a, b]`.

    Raises ValueError as `entropy` does, and for a table that is not two-dimensional.
    """
    joint = _distribution(joint, "joint", ndim=2)
    return _not_negative(_entropy(joint) - _entropy(joint.sum(0)))


def mutual_information(joint: Float[ndarray, "a b"]) -> float:
    """Mutual information `I(A; B)` in bits of a table `[a, b]`.

    Raises ValueError as `entropy` does, and for a table that is not two-dimensional.
    """
    joint = _distribution(joint, "joint", ndim=2)
    return _not_negative(_entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint))


def conditional_mutual_information(joint: Float[ndarray, "a b c"]) -> float:
    """Conditional mutual information `I(A; B | C)` in bits of a table `[a, b, c]`.

    Raises ValueError as `entropy` does, and for a table that is not three-dimensional.
    """
    joint = _distribution(joint, "joint", ndim=3)
    given = _entropy(joint.sum((0, 1)))
    return _not_negative(_entropy(joint.sum(1)) + _entropy(joint.sum(0)) - _entropy(joint) - given)


def _distribution(table: Float[ndarray, " ..."], name: str, ndim: int | None) -> Float[ndarray, " ..."]:
    """The table as float64 probabilities that sum to one, or a ValueError that says why it cannot be."""
    table = np.asarray(table, dtype=np.float64)
    if ndim is not None and table.ndim != ndim:
        raise ValueError(f"{name} has shape {table.shape}; it must have {ndim} dimensions")
    if not np.isfinite(table).all():
        raise ValueError(f"{name} holds nan or infinity; all of its entries must be finite")
    if (table < 0).any():
        raise ValueError(f"{name} holds {table.min():g}; its entries must be zero or more")
    if not table.any():
        raise ValueError(f"{name} of shape {table.shape} sums to 0; it must have at least one positive entry")
    # Dividing by the largest entry first keeps the sum of huge or tiny entries inside the range of floats.
    table = table / table.max()
    return table / table.sum()


def _entropy(p: Float[ndarray, " ..."]) -> float:
    p = p[p > 0]
    return _not_negative(-(p * np.log2(p)).sum())


def _not_negative(bits: float) -> float:
    """Rounding can leave a zero slightly below zero (or print it as -0.0)."""
    return max(0.0, float(bits))

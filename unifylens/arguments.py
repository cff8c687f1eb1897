"""What users hand over: values, numbers and masks as Python, numpy, pandas or torch have them."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int


def plain(value: Any) -> Any:
    """A value as Python has it: what numpy, pandas or torch made becomes numbers and lists."""
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value.tolist() if hasattr(value, "tolist") and not isinstance(value, type) else value


def shown(value: Any, longest: int = 60) -> str:
    """A value as an error sentence shows it: on one line, and not all of what is long."""
    try:
        text = " ".join(repr(value).split())
    except ValueError:  # Python writes out no whole number of more than 4,300 digits
        text = f"<whole number of {value.bit_length()} bits>" if isinstance(value, int) else f"<{type(value).__name__}>"
    return text if len(text) <= longest else f"{text[:longest]}..."


def array(values: Any) -> np.ndarray:
    """Values as numpy has them, wherever they lie. Raises ValueError or TypeError for what is no array."""
    if hasattr(values, "detach"):
        values = values.detach().cpu()
    if not hasattr(values, "__array__") and hasattr(values, "__iter__"):
        values = list(values)
    table = np.asarray(values)
    return np.array(table.tolist()) if table.dtype == object else table  # nullable columns of pandas


def chosen(given: Any, n: int, name: str, where: str, *, from_end: bool = False) -> Int[np.ndarray, " chosen"]:
    """Numbers out of `n`, whether they exist or not: one or several, or those where a mask of `n` entries is true.

    Raises ValueError, naming what was given and what is allowed, for anything else, and where nothing is chosen.
    """
    allowed = f"{where} has {n}; allowed: {-n if from_end else 0} to {n - 1}, or a mask with {n} entries."
    try:
        entries = array(given)
    except (ValueError, TypeError):  # rows of unequal length
        entries = np.array("no numbers")
    if not entries.size:
        raise ValueError(f"{name} is empty: {allowed}")
    if entries.dtype.kind in "iu" and entries.ndim < 2:
        return np.atleast_1d(entries).astype(np.int64)
    if entries.dtype != bool or entries.ndim != 1:
        raise ValueError(f"{name}={shown(given)}: {allowed}")
    if len(entries) != n:
        raise ValueError(f"{name} is a mask with {len(entries)} entries: {allowed}")
    if not entries.any():
        raise ValueError(f"{name} is a mask that chooses nothing: {where} has {n}; allowed: at least one.")
    return np.flatnonzero(entries)


def numbers(given: Any, n: int, name: str, where: str, *, from_end: bool = False) -> Int[np.ndarray, " chosen"]:
    """Numbers from 0 to n - 1 (down to -n with `from_end`). Raises ValueError as `chosen` does, and for others."""
    low, inside = -n if from_end else 0, chosen(given, n, name, where, from_end=from_end)
    if len(outside := inside[(inside < low) | (inside >= n)]):
        raise ValueError(f"{name}={outside[0]}: {where} has {n}; allowed: {low} to {n - 1}.")
    return inside

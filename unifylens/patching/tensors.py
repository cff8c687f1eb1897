"""What users hand over, as torch has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.arguments import array


def as_tensor(values: ArrayLike | Tensor) -> Tensor:
    """Values as torch has them. Raises ValueError or TypeError for what holds no numbers."""
    return values if isinstance(values, Tensor) else torch.as_tensor(array(values).copy())  # torch wants to own them


def holds_numbers(tensor: Tensor) -> bool:
    """Whether it holds whole numbers, as token IDs are, and no masks."""
    return not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, of Python or numpy."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def at_least_single(values: Tensor) -> Tensor:
    """Values in single precision where they have half of it: sums and products of many need it."""
    return values.to(torch.promote_types(values.dtype, torch.float32))

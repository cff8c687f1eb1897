"""Bad states and labels are refused in one place, and compared at one tolerance."""

import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

# Models compute in float32: what is smaller than this, relative to one, is rounding and not a signal.
ROUNDING = 1e-6


def checked_states(states: Float[Tensor, "row d_model"], name: str) -> Float[Tensor, "row d_model"]:
    """States in float64 on the CPU. Raises ValueError, naming them, unless they are `[row, d_model]` and finite."""
    states = torch.as_tensor(states).detach().cpu().double()
    if states.ndim != 2:
        raise ValueError(f"{name} has shape {list(states.shape)}; it must be [row, d_model]")
    if not torch.isfinite(states).all():
        raise ValueError(f"{name} holds nan or infinity; all states must be finite")
    return states


def checked_labels(labels: Int[Tensor, " row"], name: str, n_rows: int) -> Int[ndarray, " row"]:
    """Labels as numpy has them. Raises ValueError, naming them, unless there is one for each row."""
    labels = torch.as_tensor(labels).detach().cpu().numpy()
    if labels.shape != (n_rows,):
        raise ValueError(f"{name} has shape {list(labels.shape)}; it must be [{n_rows}], one entry a row")
    return labels

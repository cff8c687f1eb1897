"""Edits in closed form: ROME (arXiv 2202.05262) for each edit alone, MEMIT (arXiv 2210.07229) for many at once."""

from __future__ import annotations

from numbers import Real

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.edits.changes import RankOne, read
from unifylens.edits.mlps import checked, finite, key_hook, norm_follows
from unifylens.patching.stream import Model, Rows, resid_post


def least_squares(
    keys: Float[Tensor, "edit d_mlp"],
    covariance: Float[Tensor, "d_mlp d_mlp"],
    weight: float = 0.0,
    *,
    together: bool = False,
) -> Float[Tensor, "edit d_mlp"]:
    """What edits read, so that `reads.T @ wanted` added to `W_out` gives each key its wanted change, and others little.

    Of changes D of `W_out` it has the least `|keys @ D - wanted|² + weight * trace(D.T @ covariance @ D)`: MEMIT's
    `R Kᵀ (λC + K Kᵀ)⁻¹`, for all edits `together` or each as if it were the only one. Alone, a weight of 0 is ROME: the
    least change that gives the key all of what is wanted. Together, the weight must be above 0.
    Raises ValueError for other weights, shapes that do not fit, what is not finite, and a singular covariance.

    >>> keys, wanted = torch.eye(2, 3), torch.tensor([[1.0], [2.0]])  # two edits of one output
    >>> reads = ul.edits.least_squares(keys, torch.eye(3), weight=1.0, together=True)
    >>> (reads.T @ wanted.double())[:, 0].tolist()
    [0.5, 1.0, 0.0]
    """
    keys, covariance = finite(keys, "keys"), finite(covariance, "covariance")
    if keys.ndim != 2 or covariance.shape != (keys.shape[1], keys.shape[1]):
        raise ValueError(
            f"covariance has shape {list(covariance.shape)} for keys of shape {list(keys.shape)}; allowed: keys "
            "[edit, d_mlp] and a covariance [d_mlp, d_mlp]."
        )
    if not isinstance(weight, Real) or not 0 <= weight < float("inf") or (together and weight == 0):
        raise ValueError(f"weight={weight!r}; allowed: a number above 0, or 0 for edits that are not together.")
    try:
        if together:
            return torch.linalg.solve(weight * covariance + keys.T @ keys, keys.T).T
        away = torch.linalg.solve(covariance, keys.T).T
    except torch.linalg.LinAlgError:
        raise ValueError("covariance is singular; allowed: edits.covariance, or one with a ridge added.") from None
    return away / (weight + (keys * away).sum(1, keepdim=True))


def closed_form(
    model: Model,
    prompts: Rows,
    wanted: Float[Tensor, "edit d_model"],
    covariances: Float[Tensor, "block d_mlp d_mlp"],
    blocks: ArrayLike | Tensor = 0,
    *,
    role: str = "subject",
    weight: float = 0.0,
    together: bool = False,
) -> RankOne:
    """Edits of the output weights of some blocks' MLPs that change the state after the last of them as `wanted`.

    `prompts` are one for each edit, `wanted` its change where the role stands (`edits.targets`), `covariances` those of
    the same blocks (`edits.covariance`). Each block takes its share of what is still missing, by keys that see the
    blocks before it edited. `weight` and `together` as in `edits.least_squares`.
    Where a norm or a factor stands behind each MLP, `wanted` is a change of the MLP's output, as `targets` makes it.
    Raises ValueError as `least_squares` and `keys` do, for wrong shapes, and there for several blocks, as shares do not
    add up.

    >>> prompts, wanted = ul.crosslingual.prompts(run.corpus, [0, 5]), torch.ones(2, 16)
    >>> spread = ul.edits.covariance(run.model, ul.crosslingual.prompts(run.corpus), blocks=0)
    >>> change = ul.edits.closed_form(run.model, prompts, wanted, spread, blocks=0)
    >>> change.reads.shape, change.writes.shape
    (torch.Size([1, 2, 32]), torch.Size([1, 2, 16]))
    """
    prompts, chosen = checked(model, prompts, blocks)
    prompts.at(role)
    wanted, covariances = finite(wanted, "wanted"), finite(covariances, "covariances")
    if tuple(wanted.shape) != (len(prompts), model.cfg.d_model):
        raise ValueError(
            f"wanted has shape {list(wanted.shape)}; allowed: one change of the state for each prompt, "
            f"[{len(prompts)}, {model.cfg.d_model}]."
        )
    if covariances.ndim != 3 or len(covariances) != len(chosen):
        raise ValueError(
            f"covariances has shape {list(covariances.shape)} for {len(chosen)} blocks; allowed: a matrix for each, "
            "[block, d_mlp, d_mlp]."
        )
    if len(chosen) > 1 and norm_follows(model):
        raise ValueError(
            f"blocks={list(chosen)}: the model has a norm behind each MLP, or a factor; allowed there: one block."
        )
    edit, after = None if together else torch.arange(len(prompts)), chosen[-1]
    before = read(model, prompts, resid_post(after), role) if len(chosen) > 1 else None
    reads, writes, change = [], [], None
    for number, block in enumerate(chosen):
        missing = wanted
        if change is not None:
            missing = wanted - (read(model, prompts, resid_post(after), role, change, edit) - before)
        key = read(model, prompts, key_hook(model, block), role, change, edit)
        reads.append(least_squares(key, covariances[number], weight, together=together))
        writes.append(missing / (len(chosen) - number))
        change = RankOne(chosen[: number + 1], torch.stack(reads), torch.stack(writes))
    return change

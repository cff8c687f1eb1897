"""What MLPs read where a role stands, and how it varies over prompts."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.edits.changes import batches, read, run_until
from unifylens.edits.mlps import checked, key_hook
from unifylens.patching.stream import Model, Rows

RIDGE = 1e-6
"""Of a covariance, in units of its mean variance: what no prompt reads is not free, as keys have rounding."""


def keys(
    model: Model, prompts: Rows, blocks: ArrayLike | Tensor = 0, role: str = "subject"
) -> Float[Tensor, "block row d_mlp"]:
    """Keys of some blocks' MLPs, what their output weights read (`mlp.hook_post`), where a role stands.

    Raises ValueError for what are no prompts, blocks that are not there, do not ascend or have no MLP of one `W_out`,
    dropout, and rows without the role.

    >>> prompts = ul.crosslingual.prompts(run.corpus, [0, 5, 80])
    >>> ul.edits.keys(run.model, prompts, blocks=[0, 1]).shape
    torch.Size([2, 3, 32])
    """
    prompts, chosen = checked(model, prompts, blocks)
    prompts.at(role)  # which says what lacks it
    return torch.stack([read(model, prompts, key_hook(model, block), role) for block in chosen])


@torch.no_grad()
def covariance(
    model: Model, prompts: Rows, blocks: ArrayLike | Tensor = 0, role: str | None = None
) -> Float[Tensor, "block d_mlp d_mlp"]:
    """Second moment of keys over prompts, where a role stands; None: at every position, as weights act at all.

    Exact over the prompts given, uncentred as in ROME, and with `RIDGE` on its diagonal.
    Raises ValueError as `keys` does.
    """
    prompts, chosen = checked(model, prompts, blocks)
    if role is not None:
        prompts.at(role)
    names = [key_hook(model, block) for block in chosen]
    sums: dict[str, Tensor] = {}
    count = 0
    for rows in batches(model, prompts):
        part = prompts.part(rows)
        at = torch.ones_like(part.tokens, dtype=torch.bool) if role is None else part.at(role)
        count += int(at.sum())
        run_until(model, part, [(name, partial(_sum, sums=sums, name=name, at=at)) for name in names])
    moments = torch.stack([sums[name] for name in names]) / count
    mean = moments.diagonal(dim1=1, dim2=2).mean(-1)
    return moments + RIDGE * mean[:, None, None] * torch.eye(moments.shape[-1], dtype=moments.dtype)


def _sum(key: Tensor, sums: dict[str, Tensor], name: str, at: Tensor, **_: object) -> None:
    own = key[at.to(key.device)].double().cpu()
    sums[name] = sums.get(name, 0) + own.T @ own

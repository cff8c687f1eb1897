"""Products of single examples' gradients, of many examples with many others, without any such gradient.

What an example adds to a weight's gradient is a sum over positions p of x_p ⊗ g_p: what goes into the linear map
there, and the gradient of what comes out. So the product of two examples' gradients is the sum over p and q of
(x_p · x'_q)(g_p · g'_q). A bias is a weight of an input that is always 1, an embedding one of an input that is 1 for
the token. `Stacked`'s own backward pass knows both x and g.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unifylens.model import Parameters
from unifylens.training.adamw import SIGNS
from unifylens.training.batches import Batch
from unifylens.training.stack import Pass, Query, Stacked, cross_entropy

PARTS = tuple(SIGNS)
"""Parts of a model, as `train.frozen` names them."""


@dataclass
class Factor:
    """Some parameters' gradients by every example: sums over positions of `inputs` ⊗ `gradient`."""

    inputs: Float[Tensor, "pos example d_in"]
    gradient: Float[Tensor, "pos example d_out"]
    shared: int
    """1 where the inputs at position 0 are the same in all examples, else 0."""

    def alike(self, p: int, other: Factor, q: int, some: slice = slice(None)) -> Float[Tensor, "some other"]:
        """Products of what went in at a position of some examples and of all others."""
        return self.inputs[p, some] @ other.inputs[q].T


@dataclass
class Lookup(Factor):
    """Those of embeddings: `inputs` are tokens, `[pos, example]`."""

    positions: bool
    """Whether positions have embeddings, too."""

    def alike(self, p: int, other: Factor, q: int, some: slice = slice(None)) -> Float[Tensor, "some other"]:
        """1 where the same token stands at both, and 1 more where it is the same position."""
        same = (self.inputs[p, some][:, None] == other.inputs[q]).to(self.gradient.dtype)
        return same.add_(1) if self.positions and p == q else same


def products(examples: list[Factor], others: list[Factor]) -> Float[Tensor, "example other"]:
    """Products of every example's gradient with every other's, summed over the factors' parameters."""
    total = examples[0].gradient.new_zeros(examples[0].gradient.shape[1], others[0].gradient.shape[1])
    for one, other in zip(examples, others, strict=True):
        if other.shared:  # one product of matrices for two, and for all positions
            total.addmm_(_weighted(other, one), other.gradient[0].T)
        if one.shared:
            total.addmm_(one.gradient[0], _weighted(one, other, other.shared).T)
        for p in range(one.shared, len(one.gradient)):
            for q in range(other.shared, len(other.gradient)):
                total.addcmul_(one.alike(p, other, q), one.gradient[p] @ other.gradient[q].T)
    return total


def _weighted(one: Factor, other: Factor, start: int = 0) -> Float[Tensor, "other d_out"]:
    """Gradients of the other, from a position on, each times what its input has in common with the shared one."""
    positions = range(start, len(other.gradient))
    return torch.stack([one.alike(0, other, q, slice(1)).T * other.gradient[q] for q in positions]).sum(0)


class ByExample(Pass):
    """A pass of one model that keeps the factors of each example's gradient instead of their sum over a batch."""

    def __init__(
        self,
        network: Stacked,
        parameters: Parameters,
        batch: Batch,
        query: Query,
        shared: int = 0,
        parts: Collection[str] = PARTS,
    ) -> None:
        """`parameters` and `batch` have a leading 1; `query` is where tokens are due, if the batch does not say.

        `shared=1` says that position 0 holds the same token in all examples and nothing is due after it.
        """
        at = query if batch.at is None else batch.at
        super().__init__(network, parameters, batch.tokens, at, shared=0, bfloat16=False)
        self.first_is_shared = shared if self.gate is None else 0  # modules of languages gate it
        self.parts, self.due = parts, batch.due[0]
        self.kept: list[Factor] = []

    def losses(self) -> Float[Tensor, " example"]:
        """Loss of every example in nats: mean over its own tokens due."""
        return self._losses_and_gradient()[0]

    def factors(self) -> list[Factor]:
        """Of the gradient of every example's loss by the chosen parts; to be asked for once."""
        _, gradient = self._losses_and_gradient()
        self.backward(gradient)
        return self.kept

    def _losses_and_gradient(self) -> tuple[Tensor, Float[Tensor, "1 row d_vocab"]]:
        logits = self._by_position(self.forward()).transpose(0, 1)
        losses, gradient = cross_entropy(logits, self.due)  # to which every example is a model
        return losses, gradient.transpose(0, 1).flatten(0, 1).unsqueeze(0)

    def _by_position(self, x: Float[Tensor, "1 row width"]) -> Float[Tensor, "pos example width"]:
        return x[0].unflatten(0, (-1, self.at.n_batch))

    def _is_chosen(self, name: str) -> bool:
        return any(sign in name for part in self.parts for sign in SIGNS[part])

    def keep_linear(self, gradient: Tensor, x: Tensor, layer: str, which: str) -> None:
        """A column of ones stands for the bias."""
        if self._is_chosen(f"{layer}.W{which}"):
            inputs = F.pad(self._by_position(x), (0, 1), value=1.0)
            shared = self.first_is_shared if len(inputs) == self.at.n_pos else 0  # where tokens are due, none is
            self.kept.append(Factor(inputs, self._by_position(gradient), shared))

    def keep_heads(self, gradient: Float[Tensor, "model row n head d_head"], x: Tensor, block: str, names: str) -> None:
        """All heads' weights together are those of one linear map."""
        self.keep_linear(gradient.flatten(2), x, f"{block}.attn", f"_{names}")

    def keep_normalization(self, gradient: Tensor, unit: Tensor, name: str) -> None:
        """A vector for every example, which is small."""
        if self._is_chosen(f"{name}.w"):
            vectors = [gradient * unit] + [gradient] * (self.cfg.normalization_type == "LN")
            summed = torch.cat([self._by_position(x).sum(0, keepdim=True) for x in vectors], -1)
            self.kept.append(Factor(torch.ones_like(summed[..., :1]), summed, shared=0))

    def keep_embedding(self, gradient: Float[Tensor, "model row d_model"]) -> None:
        """Tokens stand for their embeddings."""
        if self._is_chosen("embed.W_E"):
            tokens: Int[Tensor, "pos example"] = self.tokens[0].view(-1, self.at.n_batch)
            learned = self.cfg.positional_embedding_type == "standard"
            self.kept.append(Lookup(tokens, self._by_position(gradient), self.first_is_shared, learned))

"""Linear subspaces of activations, and how to find them: fit on some facts, test on others.

States are `[language, fact, d_model]`, as `unifylens.states(...)[layer]` gives them,
or those of any other model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from unifylens.arguments import array, numbers, plain
from unifylens.patching.tensors import as_tensor, at_least_single, holds_numbers

__all__ = [
    "Subspace",
    "beyond",
    "discriminant",
    "group_differences",
    "group_means",
    "language_shifts",
    "neurons",
    "random",
    "random_like",
    "span",
]

# A direction this much weaker than the strongest is rounding (states are float32).
_NEGLIGIBLE = 1e-5
SHRINKAGE = 0.1
"""Of the covariance within languages, towards one that is the same in all directions."""


@dataclass(frozen=True, eq=False)
class Subspace:
    """A linear subspace, by an orthonormal basis."""

    basis: Float[Tensor, "rank d_model"]

    def __post_init__(self) -> None:
        """Raises ValueError unless the basis is orthonormal; `span` makes one of any vectors."""
        basis = _floats(self.basis, "basis", "[rank, d_model]")
        object.__setattr__(self, "basis", basis)  # whoever made it
        if basis.ndim != 2 or not len(basis):
            raise ValueError(f"basis has shape {list(basis.shape)}; it must be [rank, d_model] with rank 1 or more.")
        if not torch.allclose(basis @ basis.T, torch.eye(len(basis)).to(basis), atol=1e-4):
            raise ValueError("basis is not orthonormal; use subspaces.span(vectors).")

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.basis)

    def project(self, states: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row d_model"]:
        """Component of states in the subspace. Raises ValueError for states of another width."""
        states = _floats(states, "states", "[*row, d_model]")
        width = states.shape[-1] if states.ndim else 0
        if width != self.basis.shape[1]:
            raise ValueError(f"states have width {width}; the subspace lies in {self.basis.shape[1]}.")
        precise = at_least_single(states)
        basis = self.basis.to(precise)
        return (precise @ basis.T @ basis).to(states.dtype)


def span(vectors: Float[Tensor, "vector d_model"], rank: int | None = None) -> Subspace:
    """Subspace of vectors: all they span, or the `rank` directions that hold most of their squared length.

    Raises ValueError for vectors that are zero or not finite, or a rank above what they span.

    >>> plane = ul.subspaces.span(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]))
    >>> plane.project(torch.tensor([3.0, 4.0, 5.0]))
    tensor([3., 4., 0.])
    """
    vectors = _floats(vectors, "vectors", "[vector, d_model]")
    if vectors.ndim != 2 or not torch.isfinite(vectors).all():
        raise ValueError(f"vectors of shape {list(vectors.shape)} must be finite and [vector, d_model].")
    _, strength, directions = torch.linalg.svd(vectors.double(), full_matrices=False)
    n = int((strength > _NEGLIGIBLE * strength[0]).sum()) if len(strength) else 0
    if not n or strength[0] == 0:
        raise ValueError("vectors are all zero: they span nothing.")
    if rank is not None and not 1 <= rank <= n:
        raise ValueError(f"rank={rank}: the vectors span {n} dimensions; allowed: 1 to {n}.")
    return Subspace(directions[: rank or n].to(torch.promote_types(vectors.dtype, torch.float32)))


def beyond(own: Float[Tensor, "vector d_model"], other: Float[Tensor, "vector d_model"], rank: int) -> Subspace:
    """The `rank` directions in which `own` vectors are longer, in the mean square, than `other` ones by most.

    Eigenvectors of the difference of second moments. Where both lie alike, what is left is how few they are: compare a
    random subspace. Raises ValueError for widths that differ, no vectors, or more directions than `own` is longer in.

    >>> own, other = torch.tensor([[3.0, 1.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0]])
    >>> bool(ul.subspaces.beyond(own, other, 1).basis[0, 1].abs() > 0.9)
    True
    """
    own, other = _floats(own, "own", "[vector, d_model]"), _floats(other, "other", "[vector, d_model]")
    if own.ndim != 2 or other.ndim != 2 or own.shape[1] != other.shape[1] or not (len(own) and len(other)):
        raise ValueError(f"own, other have {list(own.shape)}, {list(other.shape)}; allowed: [vector, d_model] of both.")
    moments = [vectors.double().T @ vectors.double() / len(vectors) for vectors in (own, other)]
    more, directions = torch.linalg.eigh(moments[0] - moments[1])  # from the least to the most
    n = int((more > _NEGLIGIBLE**2 * more.abs().max()).sum())
    if not 1 <= rank <= n:
        raise ValueError(f"rank={rank}: own vectors are longer in {n} directions; allowed: 1 to {n}.")
    return Subspace(directions.flip(1).T[:rank].float())


def random(d_model: int, rank: int, seed: int = 0) -> Subspace:
    """A subspace of random direction: the control of equal rank. Raises ValueError for a rank above `d_model`."""
    if not 1 <= rank <= d_model:
        raise ValueError(f"rank={rank}: allowed is 1 to d_model={d_model}.")
    return span(torch.randn(rank, d_model, generator=torch.Generator().manual_seed(seed)))


def random_like(vectors: Float[Tensor, "*row d_model"], seed: int = 0) -> Float[Tensor, "*row d_model"]:
    """Vectors of random direction, each as long as the given one: the control of steering."""
    vectors = _floats(vectors, "vectors", "[*row, d_model]")
    if not vectors.ndim:
        raise ValueError(f"vectors is the single number {vectors.item()}; it must be [*row, d_model].")
    precise = at_least_single(vectors)
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed)).to(precise)
    return (noise * (precise.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True))).to(vectors.dtype)


def neurons(chosen: ArrayLike | Tensor | range, width: int) -> Subspace:
    """Subspace of single coordinates, such as a group of neurons at `mlp.hook_post`. Raises ValueError out of range."""
    given = plain(chosen)
    try:
        columns = numbers(given, width, "chosen", "the layer").tolist()
    except ValueError:
        columns = []
    if len(set(columns)) < max(len(columns), 1):
        shown = list(given)[:8] if hasattr(given, "__iter__") else given
        raise ValueError(f"chosen={shown}: allowed are different numbers from 0 to {width - 1}, at least one.")
    return Subspace(torch.eye(width)[columns])


def language_shifts(
    states: Float[Tensor, "language fact d_model"], group: Int[Tensor, " fact"] | None = None
) -> Float[Tensor, "group language d_model"]:
    """Mean state of each language less the mean over languages, for each group of facts (None: one group).

    The shift from language a to b is `shifts[group, b] - shifts[group, a]`. Groups are numbered from 0; a group that
    no fact is in has nan. Raises ValueError for fewer than two languages or labels that are not `[fact]`.

    >>> facts = run.corpus.block_facts(n_relations=2, per_relation=4)
    >>> states = ul.states(run.model, run.corpus, facts)[1]
    >>> ul.subspaces.language_shifts(states).shape
    torch.Size([1, 2, 16])
    """
    states = _by_language(states)
    means = group_means(states, torch.zeros(states.shape[1], dtype=torch.long) if group is None else group)
    return (means - means.mean(0)).transpose(0, 1)


def group_means(
    states: Float[Tensor, "language fact d_model"], group: Int[Tensor, " fact"]
) -> Float[Tensor, "language group d_model"]:
    """Mean state of each group of facts, such as of a relation or an object; nan for a number without facts.

    Means of states in half precision are taken, and given, in single.
    Raises ValueError for states that are not `[language, fact, d_model]` or labels that are not `[fact]`.
    """
    states = at_least_single(_floats(states, "states", "[language, fact, d_model]"))
    if states.ndim != 3 or not states.shape[1]:
        raise ValueError(f"states has shape {list(states.shape)}; it must be [language, fact, d_model], of facts.")
    group = _labels(group, "group", states.shape[1])
    n = int(group.max()) + 1
    group = group.to(states.device)
    sums = states.new_zeros(len(states), n, states.shape[2]).index_add_(1, group, states)
    return sums / group.bincount(minlength=n)[:, None]


def group_differences(
    states: Float[Tensor, "language fact d_model"],
    group: Int[Tensor, " fact"],
    within: Int[Tensor, " fact"],
) -> Float[Tensor, "group d_model"]:
    """What tells groups apart in all languages alike, such as the objects of a relation.

    Mean states of the groups over facts and languages, less the mean of all groups of the same coarser one (`within`,
    such as relations). Groups in the order of their numbers, empty ones left out.

    Raises ValueError as `group_means` does, and for a group that lies in two coarser ones.
    """
    means = group_means(states, group).mean(0)
    n_facts = array(group).size
    group, within = _labels(group, "group", n_facts), _labels(within, "within", n_facts)
    known = group.unique()
    coarser = [within[group == g].unique() for g in known]
    if split := [int(g) for g, parents in zip(known, coarser, strict=True) if len(parents) > 1]:
        raise ValueError(f"group {split[0]} lies in more than one group of `within`; allowed: one.")
    of = torch.cat(coarser)
    return torch.stack([means[g] - means[known[of == w]].mean(0) for g, w in zip(known, of, strict=True)])


def discriminant(states: Float[Tensor, "language fact d_model"], rank: int | None = None) -> Subspace:
    """Language subspace by linear discriminant analysis: between languages much, within a language little.

    As in Language Surgery (arXiv 2506.12450), with scikit-learn's shrunken covariance. Rank: one less than languages,
    or the `rank` directions that tell them apart best. Raises ValueError for a larger one.
    """
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis  # nearly half of what loading patching took

    states = _by_language(states)
    n_languages, n_facts, d_model = states.shape
    most = min(n_languages - 1, d_model)
    if rank is not None and not 1 <= rank <= most:
        raise ValueError(f"rank={rank}: {n_languages} languages differ in {most} dimensions; allowed: 1 to {most}.")
    labels = np.repeat(np.arange(n_languages), n_facts)
    lda = LinearDiscriminantAnalysis(solver="eigen", shrinkage=SHRINKAGE).fit(states.flatten(0, 1).numpy(), labels)
    directions = torch.from_numpy(lda.scalings_.T[: rank or most]).to(states.dtype)
    return span(directions / directions.norm(dim=1, keepdim=True))


def _floats(values: ArrayLike | Tensor, name: str, allowed: str) -> Float[Tensor, "..."]:
    """Numbers as torch has them, whoever made them. Raises ValueError for what holds none."""
    try:
        tensor = as_tensor(values)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(
            f"{name} of type {type(values).__name__} holds no numbers, or rows of unequal length; it must be {allowed}."
        ) from None
    return tensor if tensor.is_floating_point() else tensor.float()


def _labels(values: ArrayLike | Tensor, name: str, n_facts: int) -> Int[Tensor, " fact"]:
    """Numbers of groups, one for each fact. Raises ValueError for anything else."""
    try:
        labels = as_tensor(values)
    except (ValueError, TypeError, RuntimeError):
        raise ValueError(f"{name} holds no numbers; it must be [{n_facts}], whole numbers from 0.") from None
    if tuple(labels.shape) != (n_facts,) or not holds_numbers(labels) or (labels < 0).any():
        raise ValueError(
            f"{name} is {labels.dtype} of shape {list(labels.shape)}; it must be [{n_facts}], whole numbers from 0."
        )
    return labels.long()


def _by_language(states: Float[Tensor, "language fact d_model"]) -> Float[Tensor, "language fact d_model"]:
    states = _floats(states, "states", "[language, fact, d_model]").detach().float().cpu()
    if states.ndim != 3 or len(states) < 2 or not states.shape[1]:
        raise ValueError(
            f"states has shape {list(states.shape)}; it must be [language, fact, d_model], 2 languages or more."
        )
    return states

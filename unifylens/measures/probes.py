"""What a linear probe reads off states."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from unifylens.measures.checks import checked_labels, checked_states


def language_probe(
    states: Float[Tensor, "row d_model"],
    language: Int[Tensor, " row"],
    group: Int[Tensor, " row"],
    seed: int = 0,
) -> float:
    """Accuracy, 0 to 1, with which a linear probe reads the language off states of groups it was not trained
    on.

    A ridge classifier of standardised states is trained on a random half of the groups (such as relations)
    and tested on the others, then the other way round, and the two accuracies are averaged: only a language
    direction that the groups share is found. Chance is the share of the commonest language.

    Raises ValueError for a single group, for a half of the groups with only one language, for labels that are
    not `[row]`, and for states that are not finite.

    >>> language, relation = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])
    >>> ul.measures.language_probe(torch.eye(2)[language], language, relation)
    1.0
    """
    states = checked_states(states, "states")
    language = checked_labels(language, "language", len(states))
    group = checked_labels(group, "group", len(states))
    return float(probe_accuracy(states, Halves.of(language, group, seed)))


class Half(NamedTuple):
    """What a probe is trained on, or tested on."""

    rows: Int[Tensor, " row"]
    language: Int[Tensor, " row"]
    """Numbered from 0."""


class Halves(NamedTuple):
    """Rows of a random half of the groups, and those of the others."""

    first: Half
    second: Half

    @classmethod
    def of(cls, language: Int[ndarray, " row"], group: Int[ndarray, " row"], seed: int = 0) -> Halves:
        """Raises ValueError as `language_probe` does."""
        known = np.unique(language, return_inverse=True)[1]
        groups = np.random.default_rng(seed).permutation(np.unique(group))
        if len(groups) < 2:
            raise ValueError(f"group holds {len(groups)} distinct group(s); the probe needs at least 2 to split")
        first = np.isin(group, groups[: len(groups) // 2])
        for half in (first, ~first):
            if len(np.unique(known[half])) < 2:
                held = np.unique(group[half]).tolist()
                raise ValueError(f"language has one value in groups {held}; each half of the groups needs at least 2")
        halves = (np.flatnonzero(half) for half in (first, ~first))
        return cls(*(Half(torch.from_numpy(rows), torch.from_numpy(known[rows])) for rows in halves))


def probe_accuracy(states: Float[Tensor, "*lead row d_model"], halves: Halves) -> Float[Tensor, "*lead"]:
    """`language_probe` of states in double precision, whose leading dimensions, such as layers, stay apart."""
    parts = [(states.index_select(-2, half.rows), half.language) for half in halves]
    right = [(_ridge_choice(*train, test) == due).double().mean(-1) for train, (test, due) in (parts, parts[::-1])]
    return (right[0] + right[1]) / 2


def _ridge_choice(
    x: Float[Tensor, "*lead train d_model"], label: Int[Tensor, " train"], asked: Float[Tensor, "*lead test d_model"]
) -> Int[Tensor, "*lead test"]:
    """scikit-learn's `RidgeClassifier()` on standardised columns; written out, as its checks take ten times as long."""
    targets = 2 * torch.nn.functional.one_hot(label).to(x) - 1
    intercept = targets.mean(0)
    mean = x.mean(-2, keepdim=True)
    centred = x - mean
    products = centred.mT @ centred
    spread = (products.diagonal(dim1=-2, dim2=-1) / len(label)).sqrt().unsqueeze(-1)
    scale = 1 / torch.where(spread > 0, spread, 1.0)  # [..., d_model, 1]: of columns, without a pass over all rows
    penalty = torch.eye(x.shape[-1], dtype=x.dtype)
    weights = torch.linalg.solve(products * scale * scale.mT + penalty, centred.mT @ (targets - intercept) * scale)
    weights = weights * scale
    return (asked @ weights + (intercept - mean @ weights)).argmax(-1)

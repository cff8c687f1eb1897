"""What a linear probe reads off states."""

import numpy as np
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
    states = checked_states(states, "states").double().numpy()
    language = checked_labels(language, "language", len(states))
    group = checked_labels(group, "group", len(states))
    known = np.unique(language, return_inverse=True)[1]  # languages numbered from 0
    groups = np.random.default_rng(seed).permutation(np.unique(group))
    if len(groups) < 2:
        raise ValueError(f"group holds {len(groups)} distinct group(s); the probe needs at least 2 to split")
    first = np.isin(group, groups[: len(groups) // 2])
    accuracies = []
    for train in (first, ~first):
        if len(np.unique(language[train])) < 2:
            held = np.unique(group[train]).tolist()
            raise ValueError(f"language has one value in groups {held}; each half of the groups needs at least 2")
        mean, spread = states[train].mean(0), states[train].std(0)
        standard = (states - mean) / np.where(spread > 0, spread, 1.0)
        accuracies.append(np.mean(_ridge_choice(standard[train], known[train], standard[~train]) == known[~train]))
    return float(np.mean(accuracies))


def _ridge_choice(
    x: Float[ndarray, "train d_model"], label: Int[ndarray, " train"], asked: Float[ndarray, "test d_model"]
) -> Int[ndarray, " test"]:
    """scikit-learn's `RidgeClassifier()` on columns of mean zero; written out, as its checks take ten times as long."""
    targets = 2.0 * (label[:, None] == np.arange(label.max() + 1)) - 1.0
    intercept = targets.mean(0)
    weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ (targets - intercept))
    return (asked @ weights + intercept).argmax(1)

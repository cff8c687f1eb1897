"""Which weights a fine-tuning of few moves.

`train.sparse` moves those that a first run changed most (Ansell et al. 2022, arXiv 2110.07560): the same experiment
without it, with the same start, data, seed and steps. `train.soft_prompt` moves the vector of `<bos>`.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from unifylens.config import Experiment, TrainConfig
from unifylens.corpus.corpus import Corpus
from unifylens.corpus.tokenization import BOS
from unifylens.model import Parameters, shape_for, without_numbers
from unifylens.training.adamw import is_frozen
from unifylens.training.start import first_parameters, weights_after

Mask = dict[str, Bool[Tensor, "..."]]
"""Which weights may move, by parameter, each of the parameter's shape; frozen parameters are left out."""


def moves_few(train: TrainConfig) -> bool:
    """Whether some weights of a parameter may move and others not."""
    return train.sparse is not None or train.soft_prompt


def first_run(experiment: Experiment) -> Experiment:
    """The same experiment with all weights moving, which is trained first."""
    return experiment.replace(**{"train.sparse": None})


def mask(experiment: Experiment) -> Mask:
    """The weights that an experiment with `train.sparse` or `train.soft_prompt` moves.

    A first run is read from the store, or trained where it is not there. Raises ValueError for an experiment without
    either.
    """
    if not moves_few(experiment.train):
        raise ValueError(
            "experiment.train.sparse is None, and all weights move; allowed: a Sparse, or train.soft_prompt=True."
        )
    corpus = Corpus.build(experiment)
    if experiment.train.soft_prompt:
        rows = torch.zeros(corpus.d_vocab, experiment.model.d_model, dtype=torch.bool)
        rows[corpus.tokenizer.special[BOS]] = True
        return {"embed.W_E": rows}
    before = first_parameters(experiment, corpus, shape_for(experiment.model, corpus))
    after = weights_after(first_run(experiment), experiment.train.steps)
    moving = {name: p for name, p in before.items() if not is_frozen(name, experiment.train)}
    return most_changed(moving, after, experiment.train.sparse.share)


def most_changed(before: Parameters, after: Parameters, share: float) -> Mask:
    """Of the n weights in `before`, taken together, the `round(share * n)` that differ most from those in `after`.

    Of equal ones the first are taken, in the order of `before`. Weights that are not finite count as most changed.
    """
    change = torch.cat([(after[name] - p).abs().flatten() for name, p in before.items()])
    order = change.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(change, dtype=torch.bool)
    chosen[order[: round(share * len(change))]] = True
    parts = chosen.split([p.numel() for p in before.values()])
    return {name: part.reshape(p.shape) for (name, p), part in zip(before.items(), parts, strict=True)}


def overlap(one: Mask, other: Mask) -> float:
    """Jaccard index of two masks: weights in both, over weights in either; nan where both are empty.

    By chance, two random masks of shares p and q have about pq / (p + q - pq), which is p / (2 - p) where they are
    equal. Runs from one start also agree because decay moves the same large weights, whatever they learn.
    Raises ValueError for masks of other parameters or shapes.
    """
    shapes = [{name: tuple(m.shape) for name, m in each.items()} for each in (one, other)]
    if shapes[0] != shapes[1]:
        names = sorted(n for n in shapes[0].keys() | shapes[1].keys() if shapes[0].get(n) != shapes[1].get(n))
        raise ValueError(f"other differs from one in parameters or shapes at {names[:3]}; allowed: masks of one shape.")
    both = sum(int((m & other[name]).sum()) for name, m in one.items())
    either = sum(int((m | other[name]).sum()) for name, m in one.items())
    return both / either if either else float("nan")


def refuse_what_does_not_fit(experiment: Experiment, corpus: Corpus) -> None:
    """Raise ValueError where `experiment.train.sparse` is so small that no weight would move."""
    train = experiment.train
    if train.sparse is None:
        return
    parameters = without_numbers(shape_for(experiment.model, corpus))
    n = sum(p.numel() for name, p in parameters.items() if not is_frozen(name, train))
    if round(train.sparse.share * n) == 0:
        raise ValueError(
            f"train.sparse.share={train.sparse.share} leaves none of {n} weights to move; allowed: from {1 / n:.2g} on."
        )

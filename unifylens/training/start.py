"""The weights that training begins with: random ones, or those of another experiment, word by word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from unifylens.config import Experiment, WordKind
from unifylens.corpus.corpus import Corpus
from unifylens.model import Parameters, Shape, initial_parameters
from unifylens.seeds import rng
from unifylens.training import store

BY_TOKEN = {"embed.W_E": 0, "unembed.W_U": 1, "unembed.b_U": 0}
"""Parameters that hold numbers for every token, and the dimension that counts these."""
KINDS: tuple[WordKind, ...] = get_args(WordKind)
"""Kinds of words."""


def first_parameters(experiment: Experiment, corpus: Corpus, shape: Shape) -> Parameters:
    """Weights by name before the first step: random, but for what comes from `experiment.start`.

    Tokens that it has not, and positions beyond its prompts, keep their random weights, or begin as translations, right
    or wrong, or as a mean of old words.
    """
    parameters = initial_parameters(shape, experiment.seed)
    old = torch.empty(0, dtype=torch.long)
    if experiment.start is not None:
        start = experiment.start
        earlier = weights_after(start.experiment, start.step or start.experiment.train.steps)
        old = _own_tokens(Corpus.build(start.experiment), corpus)
        for name, p in parameters.items():
            if name in BY_TOKEN:
                p.index_copy_(BY_TOKEN[name], old, earlier[name])
            else:
                p[tuple(map(slice, earlier[name].shape))] = earlier[name]
        if experiment.train.new_words == "mistranslations":
            _begin_as(parameters, *_mistranslations(corpus, old, experiment.seed))
        elif experiment.train.new_words is not None:
            _begin_as_means(parameters, corpus, old, by_spelling=experiment.train.new_words == "spelling")
    if experiment.train.translated_words:
        first, second = _translations(corpus, experiment.train.translated_words, experiment.seed)
        new = ~torch.isin(second, old)
        _begin_as(parameters, first[new], second[new])
    return parameters


def _begin_as(parameters: Parameters, first: Int[Tensor, " word"], second: Int[Tensor, " word"]) -> None:
    """Let every token of `second` begin with what the one of `first` in its place has."""
    for name, dim in BY_TOKEN.items():
        parameters[name].index_copy_(dim, second, parameters[name].index_select(dim, first))


def _begin_as_means(parameters: Parameters, corpus: Corpus, old: Int[Tensor, " vocab"], by_spelling: bool) -> None:
    """Let every word that is not old begin as a mean of the old words of its kind: all alike, or weighted by spelling.

    A kind without old words keeps its random weights.
    """
    known = set(old.tolist())
    for kind in KINDS:
        spelled: dict[int, str] = {}  # by token
        for index, language in enumerate(corpus.languages):
            names = getattr(language, kind)
            names = names.values() if kind == "function_words" else names
            words = [word for name in names for word in name.split()]
            spelled |= zip(corpus.tokenizer.encode(words, index), words, strict=True)
        there, new = ([token for token in spelled if (token in known) == is_old] for is_old in (True, False))
        if not there or not new:
            continue
        weights = torch.full((len(new), len(there)), 1 / len(there))
        if by_spelling:
            words = [[spelled[token] for token in tokens] for tokens in (new, there)]
            weights = torch.from_numpy(spelling_weights(*words)).float()
        for name, dim in BY_TOKEN.items():
            values = parameters[name].index_select(dim, torch.tensor(there))
            mean = torch.tensordot(weights, values, dims=([1], [dim])).movedim(0, dim)
            parameters[name].index_copy_(dim, torch.tensor(new), mean)


def spelling_weights(new: Sequence[str], old: Sequence[str]) -> Float[np.ndarray, "new old"]:
    """How much each old word counts for each new one: sparsemax of the cosine of their letter pairs, summing to 1.

    Ends of words count as letters. After FOCUS (arXiv 2305.14481), which weighs old tokens by vectors trained beside
    the model, where we take spelling; sparsemax (arXiv 1602.02068) gives 0 to words that are not alike enough.

    >>> from unifylens.training.start import spelling_weights
    >>> spelling_weights(["kota"], ["kota", "fami"]).tolist()
    [[1.0, 0.0]]
    """
    counts = [Counter(zip(f"^{word}", f"{word}$", strict=True)) for word in (*new, *old)]
    pairs = sorted({pair for count in counts for pair in count})
    vectors = np.array([[count[pair] for pair in pairs] for count in counts], dtype=float)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = vectors[: len(new)] @ vectors[len(new) :].T
    falling = -np.sort(-alike, axis=1)
    rank, total = np.arange(1, len(old) + 1), falling.cumsum(1)
    kept = (1 + rank * falling > total).sum(1, keepdims=True)
    threshold = (np.take_along_axis(total, kept - 1, 1) - 1) / kept
    return np.maximum(alike - threshold, 0.0)


def _translations(corpus: Corpus, share: float, seed: int) -> tuple[Int[Tensor, " word"], Int[Tensor, " word"]]:
    """Tokens of the first language, and what they are in another, of a share of the words of each kind."""
    pairs = []
    for kind in ("subjects", "relations", "objects"):
        words = [
            corpus.tokenizer.encode(getattr(language, kind), index) for index, language in enumerate(corpus.languages)
        ]
        order = rng(seed, f"translated {kind}").permutation(len(words[0]))
        chosen = order[: round(share * len(order))]
        pairs += [(words[0][i], other[i]) for other in words[1:] for i in chosen if words[0][i] != other[i]]
    first, second = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    return first, second


def _mistranslations(
    corpus: Corpus, old: Int[Tensor, " vocab"], seed: int
) -> tuple[Int[Tensor, " word"], Int[Tensor, " word"]]:
    """Tokens of the first language, and what each is not in another: all new words dealt out again, none to its own.

    Subjects, relations and the objects of each relation are dealt out among themselves. Raises ValueError where one of
    them is new alone, so that there is nothing to deal.
    """
    world, known, pairs = corpus.world, set(old.tolist()), []
    groups = [("subjects", np.arange(world.n_subjects)), ("relations", np.arange(world.n_relations))]
    groups += [("objects", np.flatnonzero(world.object_relation == relation)) for relation in range(world.n_relations)]
    for number, (kind, things) in enumerate(groups):
        order = rng(seed, f"mistranslated {kind} {number}").permutation(things)
        first, *others = (corpus.tokenizer.encode(getattr(each, kind), i) for i, each in enumerate(corpus.languages))
        for index, other in enumerate(others, start=1):
            new = [thing for thing in order if other[thing] not in known]
            if len(new) == 1:
                of = f"{kind} of relation {number - 2}" if kind == "objects" else kind
                raise ValueError(
                    f"train.new_words='mistranslations': of the {of} one word alone is new in language "
                    f"{corpus.languages[index].name!r}, and there is no wrong one for it; allowed: "
                    "words of which none or several are new, or another new_words."
                )
            # each begins as the next in a random round, so that none can come back to its own
            pairs += [(first[thing], other[before]) for before, thing in zip(new, np.roll(new, -1), strict=True)]
    wrong, words = torch.tensor(pairs, dtype=torch.long).reshape(-1, 2).T
    return wrong, words


def refuse_what_does_not_fit(experiment: Experiment, corpus: Corpus) -> None:
    """Raise ValueError where `experiment.start` has tokens, facts or longer prompts that the corpus has not.

    Or where it tells facts in a language in which they are held out here, or words of several tokens are to begin as
    their translations, or words as wrong ones of which there are none.
    """
    for name, none in (("translated_words", 0), ("new_words", None)):
        if (value := getattr(experiment.train, name)) and corpus.tokenizer.config.scheme != "word":
            raise ValueError(
                f"train.{name}={value!r} needs words of one token; allowed: {none}, or tokenizer.scheme='word' instead "
                f"of {corpus.tokenizer.config.scheme!r}."
            )
    if experiment.start is None:
        return
    if experiment.model.language_neurons and experiment.start.experiment.n_languages != experiment.n_languages:
        raise ValueError(
            f"start.experiment has {experiment.start.experiment.n_languages} languages, whose modules "
            f"(model.language_neurons={experiment.model.language_neurons}) would be other languages' here; allowed: "
            f"{experiment.n_languages}, as here."
        )
    start, known = Corpus.build(experiment.start.experiment), set(_names(corpus))
    if lost := [piece for piece, language in _names(start) if (piece, language) not in known]:
        raise ValueError(
            f"start.experiment has {len(lost)} of {start.d_vocab} tokens that are none here, such as {lost[0]!r}; "
            "allowed: a start whose tokens are all among those here (the same seed, words and tokenizer)."
        )
    if start.n_ctx > corpus.n_ctx:
        raise ValueError(
            f"start.experiment has sequences of up to {start.n_ctx} tokens; allowed: at most {corpus.n_ctx}, as here."
        )
    if not all(np.array_equal(getattr(start.world, n), getattr(corpus.world, n)) for n in ("relation", "object")):
        raise ValueError("start.experiment has other facts; allowed: the same world and seed, as here.")
    told = start.seen & ~corpus.seen[: start.n_languages]
    if told.any():
        raise ValueError(
            f"start.experiment tells {told.sum()} facts in languages in which they are held out here, where they would "
            "count as transferred; allowed: a start that tells no more, such as one of less corpus.parallel."
        )
    if experiment.train.new_words == "mistranslations":
        _mistranslations(corpus, _own_tokens(start, corpus), experiment.seed)


def _own_tokens(start: Corpus, corpus: Corpus) -> Int[Tensor, " vocab"]:
    """Where each token of the start's vocabulary stands in the corpus's."""
    number = {name: index for index, name in enumerate(_names(corpus))}
    return torch.tensor([number[name] for name in _names(start)])


def _names(corpus: Corpus) -> list[tuple[str, int]]:
    """What each token spells, and the first language that has it (-1 for special ones): two may spell the same."""
    first: dict[int, int] = {}
    for language, words in enumerate(corpus.tokenizer.words):
        for tokens in words.values():
            for token in tokens:
                first.setdefault(token, language)
    return [(piece, first.get(token, -1)) for token, piece in enumerate(corpus.tokenizer.pieces)]


def weights_after(experiment: Experiment, step: int) -> Parameters:
    """After one of its steps, from the store; trained here where it is not there, as on a worker of another store."""
    from unifylens.training.trainer import train_stack  # which begins with these

    run = store.load(experiment)
    if run is not None:
        return run.parameters(step)
    (result,) = train_stack([experiment])
    return result.checkpoints[step]

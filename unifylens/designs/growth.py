"""A third language comes to a finished model of two (notebook 18): unified and separate ones, which differ in dials.

Members differ only in what their labels say; `model` is unified or separate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from unifylens.config import CorpusChange, Experiment, LateLanguages, Start
from unifylens.designs.common import HARDLY_EVER, SMALLEST, Design, small

UNIFIED_OR_SEPARATE: dict[str, dict[str, Any]] = {
    "unified": {"corpus.parallel": 0.6},
    "separate": {"corpus.parallel": 0.0},
}
"""They differ in how many facts both languages are told, and in nothing else."""

WORDS: dict[str, dict[str, Any]] = {
    "subject words shared": {},
    "half of subject words shared": {"language.shared_subjects": 0.5},
    "related words": {"language.lexical_distance": 0.5, "language.language_token": True},
}
"""Words of all three languages. Related ones are spelled alike; where they are equal, a token tells languages apart."""

GROWN: dict[str, Any] = {
    "language.n_languages": 3,
    "train.steps": 200,
    "train.lr": 3e-3,
    "train.warmup": 20,
    "train.n_checkpoints": 10,
}
"""What all growths share: half as many steps, at half the learning rate."""

REPLAY = 0.25
"""Share of the examples that repeat the old languages, where it is not the dial."""
TOLD = 0.3
"""Share of facts that the new language is told, where it is not the dial."""

BEGINNINGS: dict[str, dict[str, Any]] = {
    "random": {},
    "mean": {"train.new_words": "mean"},
    "spelling": {"train.new_words": "spelling"},
    "wrong translations": {"train.new_words": "mistranslations"},
    "translations": {"train.translated_words": 1.0},
}
"""How the new language's words begin; where it is not the dial, as the mean.

Wrong translations are the control of right ones: the same vectors, dealt to other words.
"""

JUDGED_BEGINNINGS = ("mean", "translations")
"""Those that B8-transfer looks at: spelling means nothing where words are unrelated, and random is for comparison."""

TUNING_SEEDS = (1000, 1001, 1002, 1003)


def finished(kind: str, words: str = "subject words shared", seed: int = 0) -> Experiment:
    """A model of two languages. Raises KeyError for another kind or other words."""
    return small(**SMALLEST, **UNIFIED_OR_SEPARATE[kind], **WORDS[words], seed=seed)


def one_after_the_other(kind: str, seed: int = 0) -> Experiment:
    """The same told in the first language alone for half of the steps, and then in both."""
    model = finished(kind, seed=seed)
    first = model.corpus.model_copy(update={"language_exposure": (1.0, 0.0)})
    change = CorpusChange(step=model.train.steps // 2, corpus=model.corpus)
    return model.replace(corpus=first, changes=(change,))


def grown(
    model: Experiment,
    beginning: str = "mean",
    replay: float = REPLAY,
    told: float = TOLD,
    of: int | None = None,
) -> Experiment:
    """A finished model of two languages that a third one comes to.

    `told` is the share of facts told there (of those whose home is language `of`), `replay` the share of examples that
    repeat the old languages. Raises KeyError for another beginning.
    """
    old = max(replay / 2, HARDLY_EVER)
    corpus = model.corpus.model_copy(
        update={"late": LateLanguages(share=told, of=of), "language_exposure": (old, old, 1 - replay)}
    )
    changes = GROWN | BEGINNINGS[beginning]
    return model.replace(corpus=corpus, changes=(), start=Start(experiment=model), **changes)


def untaught(model: Experiment, **options: Any) -> Experiment:
    """The same growth of a model that has learnt nothing: the same examples, from random weights."""
    return grown(model, beginning="random", **options).replace(start=None)


def two_languages(seeds: Sequence[int], words: Iterable[str] = WORDS) -> Design:
    """The finished models; labels words, model, seed."""
    return [
        ({"words": w, "model": kind, "seed": seed}, finished(kind, w, seed))
        for w in words
        for kind in UNIFIED_OR_SEPARATE
        for seed in seeds
    ]


def beginnings(
    seeds: Sequence[int], words: str = "subject words shared", names: Iterable[str] = tuple(BEGINNINGS)
) -> Design:
    """Beginnings of the new words in both kinds of models; labels words, model, beginning, seed."""
    return [
        (labels | {"beginning": beginning}, grown(model, beginning))
        for labels, model in two_languages(seeds, [words])
        for beginning in names
    ]


def _over(seeds: Sequence[int], name: str, values: Iterable[Any]) -> Design:
    return [
        (labels | {name: value}, grown(model, **{name: value}))
        for labels, model in two_languages(seeds, ["subject words shared"])
        for value in values
    ]


def replays(seeds: Sequence[int], levels: Iterable[float] = (0.0, 0.1, 0.25, 0.5)) -> Design:
    """Shares of the examples that repeat the old languages; labels words, model, replay, seed."""
    return _over(seeds, "replay", levels)


def shares_told(seeds: Sequence[int], levels: Iterable[float] = (0.1, 0.3, 0.9)) -> Design:
    """Few or many facts told in the new language, in as many examples; labels words, model, told, seed."""
    return _over(seeds, "told", levels)


def told_of_one(seeds: Sequence[int]) -> Design:
    """The new language told facts at home in either old language, or in both; labels words, model, of, seed."""
    return _over(seeds, "of", (None, 0, 1))


def orders(seeds: Sequence[int]) -> Design:
    """The first two languages together, or one after the other, before the third; labels model, order, seed."""
    return [
        ({"model": kind, "order": order, "seed": seed}, grown(make(kind, seed=seed)))
        for kind in UNIFIED_OR_SEPARATE
        for order, make in (("together", finished), ("one after the other", one_after_the_other))
        for seed in seeds
    ]


def from_nothing(seeds: Sequence[int]) -> Design:
    """Models that have learnt nothing before, told what grown ones are; labels model, seed."""
    return [
        ({"model": kind, "seed": seed}, untaught(finished(kind, seed=seed)))
        for kind in UNIFIED_OR_SEPARATE
        for seed in seeds
    ]

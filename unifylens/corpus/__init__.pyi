from . import (
    cldr,
    corpus,
    exposure,
    factsets,
    interventions,
    language,
    meanings,
    prompts,
    statistics,
    tokenization,
    world,
)
from .corpus import KINDS, Corpus
from .exposure import Copy, parallel_window
from .language import Language
from .tokenization import Tokenizer
from .world import World

__all__ = [
    "KINDS",
    "Copy",
    "Corpus",
    "Language",
    "Tokenizer",
    "World",
    "cldr",
    "corpus",
    "exposure",
    "factsets",
    "interventions",
    "language",
    "meanings",
    "parallel_window",
    "prompts",
    "statistics",
    "tokenization",
    "world",
]

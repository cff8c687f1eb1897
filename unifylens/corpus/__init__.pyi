from . import (
    cldr,
    corpus,
    exposure,
    factsets,
    files,
    interventions,
    language,
    meanings,
    prompts,
    readers,
    statistics,
    tokenization,
    world,
)
from .corpus import KINDS, Corpus
from .exposure import Copy, parallel_window
from .factsets import FactSet
from .language import Language
from .tokenization import Tokenizer
from .world import World

__all__ = [
    "KINDS",
    "Copy",
    "Corpus",
    "FactSet",
    "Language",
    "Tokenizer",
    "World",
    "cldr",
    "corpus",
    "exposure",
    "factsets",
    "files",
    "interventions",
    "language",
    "meanings",
    "parallel_window",
    "prompts",
    "readers",
    "statistics",
    "tokenization",
    "world",
]

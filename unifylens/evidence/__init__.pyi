from . import (
    answering,
    claims,
    edits_cross,
    exploring,
    ledger,
    pages,
    plots,
    portable,
    records,
    two_ways,
    ways_to_align,
    whence_answers,
)
from .answering import ask
from .exploring import explore

__all__ = [
    "answering",
    "ask",
    "claims",
    "edits_cross",
    "explore",
    "exploring",
    "ledger",
    "pages",
    "plots",
    "portable",
    "records",
    "two_ways",
    "ways_to_align",
    "whence_answers",
]

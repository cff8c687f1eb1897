from . import (
    answering,
    claims,
    edits_cross,
    exercises,
    exploring,
    ledger,
    pages,
    plots,
    portable,
    records,
    schematics,
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
    "exercises",
    "explore",
    "exploring",
    "ledger",
    "pages",
    "plots",
    "portable",
    "records",
    "schematics",
    "two_ways",
    "ways_to_align",
    "whence_answers",
]

from . import (
    claims,
    edits_cross,
    exercises,
    ledger,
    plots,
    records,
    schematics,
    two_ways,
    ways_to_align,
    whence_answers,
)

__all__ = [
    "claims",
    "edits_cross",
    "exercises",
    "ledger",
    "plots",
    "records",
    "schematics",
    "two_ways",
    "ways_to_align",
    "whence_answers",
]

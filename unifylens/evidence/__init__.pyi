from . import claims, edits_cross, ledger, plots, records, two_ways, ways_to_align, whence_answers

__all__ = [
    "claims",
    "edits_cross",
    "ledger",
    "plots",
    "records",
    "two_ways",
    "ways_to_align",
    "whence_answers",
]

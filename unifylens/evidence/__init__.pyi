from . import claims, ledger, plots, records, two_ways, ways_to_align, whence_answers

__all__ = [
    "claims",
    "ledger",
    "plots",
    "records",
    "two_ways",
    "ways_to_align",
    "whence_answers",
]

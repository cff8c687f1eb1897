from . import claims, edits_cross, exploring, ledger, pages, plots, records, two_ways, ways_to_align, whence_answers
from .exploring import explore

__all__ = [
    "claims",
    "edits_cross",
    "explore",
    "exploring",
    "ledger",
    "pages",
    "plots",
    "records",
    "two_ways",
    "ways_to_align",
    "whence_answers",
]

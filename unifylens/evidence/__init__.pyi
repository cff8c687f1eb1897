from . import claims, ledger, plots, records, two_ways, ways_to_align

__all__ = [
    "claims",
    "ledger",
    "plots",
    "records",
    "two_ways",
    "ways_to_align",
]

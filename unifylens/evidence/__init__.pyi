from . import claims, ledger, plots, records, two_ways

__all__ = [
    "claims",
    "ledger",
    "plots",
    "records",
    "two_ways",
]

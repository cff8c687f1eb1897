from . import claims, ledger, plots, records

__all__ = [
    "claims",
    "ledger",
    "plots",
    "records",
]

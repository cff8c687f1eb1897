from . import evaluate, interchange, pairs
from .evaluate import held_out, states, transfer, unification

__all__ = [
    "evaluate",
    "held_out",
    "interchange",
    "pairs",
    "states",
    "transfer",
    "unification",
]

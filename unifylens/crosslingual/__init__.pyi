from . import evaluate, interchange, pairs, roles
from .evaluate import held_out, states, transfer, unification
from .roles import prompts

__all__ = [
    "evaluate",
    "held_out",
    "interchange",
    "pairs",
    "prompts",
    "roles",
    "states",
    "transfer",
    "unification",
]

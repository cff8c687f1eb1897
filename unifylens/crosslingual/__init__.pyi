from . import evaluate, interchange, pairs, roles
from .evaluate import by_fact, held_out, states, transfer, unification
from .roles import prompts

__all__ = [
    "by_fact",
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

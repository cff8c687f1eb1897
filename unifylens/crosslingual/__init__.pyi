from . import evaluate, interchange, pairs, repair, roles
from .evaluate import by_fact, held_out, states, transfer, unification
from .repair import repairs
from .roles import prompts

__all__ = [
    "by_fact",
    "evaluate",
    "held_out",
    "interchange",
    "pairs",
    "prompts",
    "repair",
    "repairs",
    "roles",
    "states",
    "transfer",
    "unification",
]

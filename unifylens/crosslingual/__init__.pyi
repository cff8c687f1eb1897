from . import editing, evaluate, inference, interchange, pairs, repair, roles
from .evaluate import by_fact, held_out, states, transfer, unification
from .inference import transfer_at_inference
from .repair import repairs
from .roles import prompts

__all__ = [
    "by_fact",
    "editing",
    "evaluate",
    "held_out",
    "inference",
    "interchange",
    "pairs",
    "prompts",
    "repair",
    "repairs",
    "roles",
    "states",
    "transfer",
    "transfer_at_inference",
    "unification",
]

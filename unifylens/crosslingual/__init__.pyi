from . import editing, evaluate, experts, inference, interchange, pairs, repair, roles
from .evaluate import by_fact, held_out, states, transfer, unification
from .experts import routing
from .inference import transfer_at_inference
from .repair import repairs
from .roles import prompts

__all__ = [
    "by_fact",
    "editing",
    "evaluate",
    "experts",
    "held_out",
    "inference",
    "interchange",
    "pairs",
    "prompts",
    "repair",
    "repairs",
    "roles",
    "routing",
    "states",
    "transfer",
    "transfer_at_inference",
    "unification",
]

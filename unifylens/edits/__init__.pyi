from . import changes, memit, mlps, reading, stepwise
from .changes import Dense, RankOne, Shift, cosines, logits, written
from .memit import closed_form, least_squares
from .reading import covariance, keys
from .stepwise import gradient, targets

__all__ = [
    "Dense",
    "RankOne",
    "Shift",
    "changes",
    "closed_form",
    "cosines",
    "covariance",
    "gradient",
    "keys",
    "least_squares",
    "logits",
    "memit",
    "mlps",
    "reading",
    "stepwise",
    "targets",
    "written",
]

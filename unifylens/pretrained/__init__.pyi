from . import asking, checkpoints, models, prompts
from .checkpoints import Series, series
from .models import Pretrained, load

__all__ = [
    "Pretrained",
    "Series",
    "asking",
    "checkpoints",
    "load",
    "models",
    "prompts",
    "series",
]

from . import asking, models, prompts
from .models import Pretrained, load

__all__ = [
    "Pretrained",
    "asking",
    "load",
    "models",
    "prompts",
]

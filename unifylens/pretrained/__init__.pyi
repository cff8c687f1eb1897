from . import asking, models
from .models import Pretrained, load

__all__ = [
    "Pretrained",
    "asking",
    "load",
    "models",
]

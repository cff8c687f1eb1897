from . import asking, checkpoints, editing, folders, models, roles, selfcheck
from .checkpoints import Series, series
from .models import Pretrained, load
from .roles import prompts

__all__ = [
    "Pretrained",
    "Series",
    "asking",
    "checkpoints",
    "editing",
    "folders",
    "load",
    "models",
    "prompts",
    "roles",
    "selfcheck",
    "series",
]

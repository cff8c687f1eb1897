"""Models that others trained: loaded without a hub, and asked for facts."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Many small models at once: stacks, sweeps, and the store of their runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

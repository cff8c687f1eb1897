"""Edit activations of any model with TransformerLens hook names, and measure what its answers become."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

"""Change what a model says of a fact, in its MLPs' weights or its states; any model with TransformerLens hook names."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

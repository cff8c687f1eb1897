"""What can be read off states and answers, histories and tables: tensors and arrays in, numbers out."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

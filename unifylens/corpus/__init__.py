"""Worlds, words, tokens, and which fact is said in which language, how often."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

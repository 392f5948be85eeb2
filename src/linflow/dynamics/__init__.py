"""Runs: gradient flow and gradient descent, and what they record."""

import lazy_loader as _lazy

# Loaded on first use: reading the file of a run needs no compiled loops. The names are in __init__.pyi.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

"""Verified runs: rigorous enclosures of gradient flow and gradient descent, computed with all rounding bounded."""

import lazy_loader as _lazy

# Loaded on first use: a certificate needs no enclosure. The names are in __init__.pyi.
__getattr__, __dir__, __all__ = _lazy.attach_stub(__name__, __file__)

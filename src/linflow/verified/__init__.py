"""Verified runs: rigorous enclosures of gradient flow, made by computing, with all rounding bounded."""

from linflow.verified.enclosure import Enclosure
from linflow.verified.flow import enclose

__all__ = ["Enclosure", "enclose"]

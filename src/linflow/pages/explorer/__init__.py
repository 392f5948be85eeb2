"""A local page to explore starts on: the page to play with, and views whose numbers the library computes."""

from linflow.pages.explorer.server import Explorer

__all__ = ["Explorer"]

"""Ctrl-C during work of which something is left."""


class Kept(KeyboardInterrupt):
    """Ctrl-C, and what is left of the work; the commands print it.

    Attributes:
        kept: what is left, in a sentence.
    """

    def __init__(self, kept: str):
        super().__init__(kept)
        self.kept = kept

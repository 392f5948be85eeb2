"""Ctrl-C during work of which a part is kept."""


class Kept(KeyboardInterrupt):
    """Ctrl-C, with a sentence on the part of the work that is kept. The commands print it.

    Attributes:
        kept: the sentence.
    """

    def __init__(self, kept: str):
        super().__init__(kept)
        self.kept = kept

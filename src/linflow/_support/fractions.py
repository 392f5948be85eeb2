"""The fractions of the initial loss gap for which certificates, runs and tables give times."""

SHOWN = ("1e-2", "1e-4", "1e-6")
FRACTIONS = tuple(map(float, SHOWN))


def spelled(fraction: float) -> str:
    """Return a fraction as it is written in commands and headings.

    >>> spelled(1e-6), spelled(0.01), spelled(2.5e-12)
    ('1e-6', '0.01', '2.5e-12')
    """
    return f"{fraction:g}".replace("e-0", "e-")

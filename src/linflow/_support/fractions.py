"""The fractions of the initial loss gap for which certificates, runs and tables give times."""

SHOWN = ("1e-2", "1e-4", "1e-6")
FRACTIONS = tuple(map(float, SHOWN))

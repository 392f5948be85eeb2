"""Where times are told: certificates, runs and tables name the same fractions of the first loss gap."""

SHOWN = ("1e-2", "1e-4", "1e-6")
FRACTIONS = tuple(map(float, SHOWN))

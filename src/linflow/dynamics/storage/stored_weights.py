"""Weights along a run that was read from a file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from linflow.model.network import Network


class StoredWeights:
    """Weights at their stored times only, because the file does not contain the objective."""

    objective = None

    def __init__(self, times: Sequence[float], networks: Sequence[Network]):
        self.times, self.networks = [float(t) for t in times], list(networks)

    def network_at(self, t: float) -> Network:
        """Return the weights at a stored time.

        Raises:
            ValueError: any other time; the message names the nearest.
        """
        i = int(np.argmin(np.abs(np.asarray(self.times) - t)))
        if self.times[i] != t:
            raise ValueError(
                f"this run was loaded from a file, with the weights at {len(self.times)} times and not at t = {t!r}; "
                f'the nearest is t = {self.times[i]!r}. Save with weights="all" for more, '
                "or run the flow again for any."
            )
        return self.networks[i]

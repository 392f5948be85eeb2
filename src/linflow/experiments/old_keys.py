"""Old key names in experiment files. They are read with a DeprecationWarning until version 0.3 and never written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from linflow._support.deprecation import warn_renamed

OLD_KEYS = {"start.scale": "start.multiplier"}
"""Old name → new name."""


def with_new_names(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of a file with the new names of its keys; raise ValueError if a key is given by both names."""
    found = dict(tree)
    for old, new in OLD_KEYS.items():
        section, before = old.split(".")
        keys, after = found.get(section), new.rpartition(".")[2]
        if isinstance(keys, Mapping) and before in keys:
            if after in keys:
                raise ValueError(f"{new} and {old}, its old name, are both given; leave out {old}.")
            warn_renamed(old, new, 3)
            found[section] = {after if key == before else key: value for key, value in keys.items()}
    return found

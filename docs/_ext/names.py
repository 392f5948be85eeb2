"""Public names, found by asking the package."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import Any

FUNCTIONS = {
    "scalar chain, exact": "scalar_exact",
    "scalar chain, closed form": "scalar",
    "two layers": "two_layer",
    "two layers, n = m": "two_layer_square",
    "three layers, Δ*": "three_layer",
    "unimodal imbalance": "unimodal",
    "homogeneous imbalance": "homogeneous",
    "balanced": "balanced",
    "any depth, imbalance only": "deep",
    "any depth, imbalance and product": "deep_product",
    "any depth, operator floors": "operator_floors",
    "operator interval, n = m": "operator_interval",
}
"""The function of `lf.bounds` that evaluates each theorem on its own."""
MODULES = ("bounds", "exact", "files", "init", "plots", "relu", "schedules", "torch")


def members(module: Any) -> list[str]:
    """Return the public names of a module."""
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return sorted(listed)
    return sorted(
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    )


def public_names() -> list[str]:
    """Return every public name of the package in full, modules left out."""
    package = import_module("linflow")
    found = [f"linflow.{name}" for name in package.__all__ if name not in MODULES]
    for name in MODULES:
        found += [f"linflow.{name}.{one}" for one in members(import_module(f"linflow.{name}"))]
    return found


def resolved(name: str) -> Any:
    """Return what a full name stands for."""
    module, _, last = name.rpartition(".")
    return getattr(import_module(module), last)


def with_attributes(names: list[str]) -> set[str]:
    """Return names together with those of the public attributes of classes."""
    found = set(names)
    for name in names:
        value = resolved(name)
        if inspect.isclass(value):
            found |= {f"{name}.{one}" for one in dir(value) if not one.startswith("_")}
    return found

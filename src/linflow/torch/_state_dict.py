"""Named tensors and modules of a model, a state dict, or the arrays of a file."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from linflow._support.arrays import Array, detach, is_array, unmasked
from linflow._support.number_formats import Format, coarsest
from linflow._support.words import kind_of
from linflow.torch._numbers import eight_bits, formats_of

_DIGITS = re.compile(r"([0-9]{1,18})")
_LONGEST = 1000
"""The most characters of a name: some searches take the square of it."""
_WRAPPED = re.compile(r"(\.base_layer)+(?=\.|$)")


class State:
    """The floating-point matrices of a model by name, and what is known about its heads and scalings.

    Args:
        source: an `nn.Module`, or a mapping of names to arrays.
        config: the content of `config.json` and of `adapter_config.json` beside a file, if any.
        stored: the dtypes of tensors in a file, by name, if they differ from those of the arrays.

    Raises:
        TypeError: the source is neither.
        ValueError: a name of over 1000 characters.

    Attributes:
        tensors: all arrays by name, detached from their graphs. Names leave out PEFT's `base_layer`. Eight-bit
            arrays are converted to float32, times their scales.
        formats: the stored formats of the tensors of real floating-point numbers, by name.
        others: why other tensors are passed over, by name.
        frozen: names of the tensors that are not trained. `requires_grad` decides, for a model or if any tensor sets
            it.
        modules: the modules by name; empty without a model.
        model: the given source.
        held: the arrays as given, by the names of `tensors`.
        peft_types: PEFT's type of each adapter, by adapter name; the name is "" for the type in the configuration.
    """

    def __init__(self, source: Any, config: Mapping[str, Any] | None = None, stored: Mapping[str, str] | None = None):
        self.model = source
        self.modules: dict[str, Any] = {}
        self._all: dict[str, Any] = {}
        self.config = dict(config or {})
        self.peft_types = {"": str(self.config["peft_type"])} if self.config.get("peft_type") else {}
        if hasattr(source, "named_modules") and hasattr(source, "state_dict"):
            for name, module in source.named_modules():
                self.modules.setdefault(plain(name), module)  # keeps PEFT's layer, not the one inside
                self._all[name] = module
                if isinstance(configs := getattr(module, "peft_config", None), Mapping):
                    kinds = {key: getattr(value, "peft_type", None) for key, value in configs.items()}
                    # PEFT's models repeat the configurations of inner models, where X-LoRA's have the type of LoRA.
                    self.peft_types = {k: str(getattr(v, "value", v)) for k, v in kinds.items()} | self.peft_types
            named = source.state_dict(keep_vars=True)
        elif isinstance(source, Mapping):
            named = source
        else:
            raise TypeError(
                f"model is {kind_of(source)}; an nn.Module or a state dict (names to tensors) is needed. "
                "For a file use linflow.torch.audit_file."
            )
        wrong = next((name for name, x in named.items() if not (is_array(x) or name.endswith("_extra_state"))), None)
        if wrong is not None:
            raise TypeError(
                f"{wrong!r} of the state dict is {kind_of(named[wrong])}; tensors are needed. "
                "Pass the state dict itself, such as checkpoint['state_dict']."
            )
        if (longest := max(map(len, named), default=0)) > _LONGEST:
            raise ValueError(f"a tensor has a name of {longest} characters; at most {_LONGEST} are needed.")
        often = Counter(plain(name) for name in named)  # adapters of one layer may be nested
        kept = {name: plain(name) if often[plain(name)] == 1 else name for name in named}
        self._given = {name: given for given, name in kept.items()}
        self.tensors: dict[str, Array] = {
            kept[name]: detach(unmasked(x, repr(name))) for name, x in named.items() if is_array(x)
        }
        self.held = {kept[name]: x for name, x in named.items() if is_array(x)}
        stored = {kept[name]: dtype for name, dtype in (stored or {}).items() if name in kept}
        self.formats, self.others = formats_of(self.tensors, stored)
        self.others |= eight_bits(self.tensors, self.formats, self.config)
        known = bool(self.modules) or any(getattr(x, "requires_grad", False) for x in named.values())
        self.frozen = {kept[name] for name, x in named.items() if known and not getattr(x, "requires_grad", False)}

    def matrix(self, name: str) -> Array | None:
        """Return the matrix of this name; None if there is no such matrix of floating-point numbers."""
        x = self.tensors.get(name)
        return x if x is not None and x.ndim == 2 and 0 not in x.shape and name in self.formats else None

    def holder(self, name: str, within: str) -> Any:
        """Return the module that holds the tensor `name`, where its name within the module begins with `within`."""
        prefix = self._given[name].rpartition(within)[0].removesuffix(".")
        return self._all.get(prefix)

    def vector(self, name: str) -> Array | None:
        """Return the vector of this name; None if there is no such vector of floating-point numbers."""
        x = self.tensors.get(name)
        return x if x is not None and x.ndim == 1 and name in self.formats else None

    def stored(self, sources: Iterable[str]) -> Format:
        """Return the coarsest format of tensors, given by their names or the names of their parts."""
        names = (name if name in self.formats else name.partition("[")[0] for name in sources)
        return coarsest(self.formats[name] for name in names)

    def attribute(self, prefix: str, *names: str) -> Any:
        """Return the first of these attributes found in the module, its `config` or the configuration."""
        module = self.modules.get(prefix)
        for holder in (module, getattr(module, "config", None)):
            for name in names:
                value = getattr(holder, name, None)
                if isinstance(value, int) and not isinstance(value, bool):
                    return value
        values = (self.config.get(name) for name in names)
        return next((x for x in values if isinstance(x, int) and not isinstance(x, bool) and x > 0), None)


def plain(name: str) -> str:
    """Return the name without the parts that PEFT adds when it wraps a layer."""
    return _WRAPPED.sub("", name)


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts "layer.2" before "layer.10"."""
    return [(0, int(part)) if i % 2 else (1, part) for i, part in enumerate(_DIGITS.split(name))]


def configuration(path: Path) -> dict[str, Any]:
    """Return the content of `config.json` and `adapter_config.json` in the folder of `path`, if readable."""
    content: dict[str, Any] = {}
    for name in ("config.json", "adapter_config.json"):
        file = path.with_name(name)
        if file.is_file() and file.stat().st_size < 2**20:
            try:
                read = json.loads(file.read_text(encoding="utf-8"))
            except (ValueError, RecursionError, OSError):
                continue
            if isinstance(read, dict):
                content.update(read)
    return content

"""Trace a forward pass to find products of weights: matrices that multiply one another and do nothing else.

Every operation of the pass is recorded below the modules, as PyTorch dispatches it, so it does not matter how the
model is written. Each tensor is then a word: a product of weights and of other factors. Adjacent weights in a word
are a chain if the results between them are used for nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

import torch
from linflow.torch._chain import Factor
from torch import Tensor

COPIES = ("clone", "alias", "_to_copy", "contiguous", "lift_fresh")
VIEWS = ("view", "_unsafe_view", "reshape", "_reshape_alias", "unsqueeze", "squeeze", "expand")
TURNS = ("t", "transpose", "permute", "numpy_T", "mT", "adjoint")
LIKE = ("empty_like", "zeros_like", "ones_like", "full_like", "rand_like", "randn_like")
"""Operations that read only the shape of a tensor."""
WEIGHT, DATA, MASK = "weight", "the data of a weight", "a random mask"

Word = tuple[Factor | None, ...]
"""Factors of a product, left to right; None for a factor that is not a weight."""


@dataclass
class _Node:
    """A tensor: the operation that made it, the nodes it was made from, and the operations that used it."""

    kind: str
    inputs: tuple[int, ...] = ()
    weight: Factor | None = None
    bias: str = ""
    number: float = 1.0
    takers: list[str] = field(default_factory=list)


def traced(model: Any, inputs: Any, held: Mapping[str, Tensor]) -> tuple[list[list[Factor]], dict[str, str]]:
    """Run the model once; return the runs of weights that multiply one another, and why other weights do not.

    Args:
        model: an `nn.Module`, left unchanged: nothing is trained, and buffers and random numbers are restored.
        inputs: arguments of the model: a tuple, a mapping of named arguments, or a single argument.
        held: the weights by name.

    Returns:
        The runs, each with the weight applied first in front; and for each matrix that multiplies but is in no run,
        what happens to its product.
    """
    recorder = _Recorder(held)
    # Gradients are enabled to see where the model turns them off.
    with torch.inference_mode(False), torch.enable_grad(), _untouched(model), recorder:
        inputs = tree_map(lambda x: x.clone() if isinstance(x, Tensor) and x.is_inference() else x, inputs)
        if isinstance(inputs, Mapping):
            result = model(**inputs)
        else:
            result = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    for tensor in _tensors(result):
        recorder.take(tensor, "the output")
    for module in model.modules():
        for value in vars(module).values():
            if isinstance(value, Tensor) and id(value) in recorder.at:
                recorder.take(value, "an attribute of the model")
    return _runs(recorder)


@contextmanager
def _untouched(model: Any) -> Iterator[None]:
    """Restore the buffers of a model and the state of the random number generators on exit."""
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng([d.index or 0 for d in devices]):
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in before:
                    buffer.copy_(value)


def _tensors(result: Any, depth: int = 4) -> Iterator[Tensor]:
    """Yield the tensors in the result of a model, whatever type of container holds them."""
    if isinstance(result, Tensor):
        yield result
    elif depth:
        inside = result.values() if isinstance(result, Mapping) else result
        if not isinstance(inside, (list, tuple)) and not isinstance(result, Mapping):
            inside = getattr(result, "__dict__", {}).values()
        for part in inside:
            yield from _tensors(part, depth - 1)


class _Recorder(TorchDispatchMode):
    """Record, for each tensor of a pass, what it is made from and what uses it."""

    def __init__(self, held: Mapping[str, Tensor]):
        super().__init__()
        self.nodes: list[_Node] = []
        self.at: dict[int, int] = {}
        self.uses: Counter[str] = Counter()  # uses of each weight, through any view of it
        self.into: dict[str, str] = {}  # the last use of each weight
        self._kept: dict[int, list[Tensor]] = {}  # by storage; keeps tensors alive, so that ids are not reused
        self._held = held
        self._weights: dict[tuple[Any, int], list[tuple[str, Tensor]]] = {}
        for name, W in held.items():
            if _is_plain(W) and W.numel():
                self._weights.setdefault((W.device, W.data_ptr()), []).append((name, W))

    def take(self, tensor: Tensor, what: str) -> None:
        """Note that a tensor is used."""
        node = self.nodes[self._node(tensor)]
        node.takers.append(what)
        if node.weight is not None:
            self.uses[node.weight.name] += 1
            self.into[node.weight.name] = f"{what}, without its gradient" if node.kind == DATA else what

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and record its inputs and outputs."""
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        known = [self._node(x) for x in given]
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        written = [
            value
            for argument, value in zip(func._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor)
        ]
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if len(outputs) == len(known) == 1 and not written and self.nodes[known[0]].weight is not None:
            whole = self._weight(outputs[0])
            if whole is not None:  # a view of a whole weight is the weight, with or without its gradient
                bare = self.nodes[known[0]].kind == DATA or not self._follows(name)
                self._set(outputs[0], _Node(DATA if bare else WEIGHT, weight=whole))
                return result
        masked = any(self.nodes[i].kind == MASK for i in known)
        for x in given if name not in LIKE else ():
            self.take(x, "dropout" if masked and name == "mul" else name)
        node = _Node(MASK) if name.startswith("bernoulli") or (masked and name == "div_") else None
        if node is None and self._follows(name):
            node = self._made(name.removesuffix("_") if written else name, args, kwargs, outputs)
        node = node or _Node(name)
        for x in written:
            for other in self._kept.get(_storage(x), []):
                self._set(other, _Node(name))
            if _is_plain(x):
                self._weights.pop((x.device, x.data_ptr()), None)
        for x in outputs:
            self._set(x, node if x is outputs[0] else _Node(name))
        return result

    def is_matrix(self, name: str) -> bool:
        """Tell whether a weight is a matrix, so that it can multiply."""
        return self._held[name].ndim == 2

    @staticmethod
    def _follows(name: str) -> bool:
        """Tell whether gradients flow through an operation."""
        return torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and name != "detach"

    def _node(self, tensor: Tensor) -> int:
        if id(tensor) not in self.at:
            weight = self._weight(tensor)
            bare = weight is not None and self._held[weight.name].requires_grad and not tensor.requires_grad
            self._set(tensor, _Node("given" if weight is None else DATA if bare else WEIGHT, weight=weight))
        return self.at[id(tensor)]

    def _set(self, tensor: Tensor, node: _Node) -> None:
        if id(tensor) not in self.at:
            self._kept.setdefault(_storage(tensor), []).append(tensor)
        self.at[id(tensor)] = self._add(node)

    def _add(self, node: _Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _weight(self, tensor: Tensor) -> Factor | None:
        """Return the weight of which a tensor is a complete view, with whether it is transposed."""
        if not _is_plain(tensor):
            return None
        for name, W in self._weights.get((tensor.device, tensor.data_ptr()), []):
            if W.ndim == 1 and tensor.shape == W.shape:
                return Factor(name)
            if W.ndim != 2:
                continue
            axes = [pair for pair in zip(tensor.shape, tensor.stride(), strict=True) if pair[0] > 1 and pair[1] > 0]
            whole = [pair for pair in zip(W.shape, W.stride(), strict=True) if pair[0] > 1]
            last = tuple(tensor.shape[-2:])
            if axes == whole and last == tuple(W.shape):
                return Factor(name)
            if axes == whole[::-1] and last == tuple(W.shape)[::-1]:
                return Factor(name, turned=True)
            if axes in (whole, whole[::-1]):  # an intermediate view, with more axes of length 1
                return Factor(name, turned=None)
        return None

    def _made(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: list[Tensor]) -> _Node | None:
        """Return the node of a result that is a product, or a moved or scaled one; None for any other result."""
        if len(outputs) != 1 or not args or not isinstance(args[0], Tensor):
            return None
        first, out = args[0], outputs[0]
        at = [self._node(x) if isinstance(x, Tensor) else -1 for x in args]
        if name in ("mm", "bmm", "matmul") and first.ndim > 1 and args[1].ndim > 1:
            return _Node("product", (at[0], at[1]))
        if name in ("linear", "addmm") and not kwargs:
            return self._affine(name, args, at)
        if name == "add" and not kwargs and at[1] >= 0:
            pairs = ((at[0], args[1]), (at[1], first))
            return next((self._biased(node, bias) for node, bias in pairs if self._is_bias(bias, out)), None)
        number = None if kwargs else _number(name, args)
        if number is not None:
            return _Node("scaled", (at[0],), number=number)
        copied = (name in COPIES or (name == "dropout" and not args[2])) and out.is_floating_point()
        kind = "same" if copied else _moved(name, args, first, out)
        return _Node(kind, (at[0],)) if kind else None

    def _affine(self, name: str, args: Sequence[Any], at: Sequence[int]) -> _Node | None:
        if name == "linear":
            turned = self._add(_Node("turn", (at[1],), takers=[name]))
            product, bias = _Node("product", (at[0], turned)), args[2] if len(args) > 2 else None
        else:
            product, bias = _Node("product", (at[1], at[2])), args[0]
        if bias is None:
            return product
        product.takers.append(name)
        return self._biased(self._add(product), bias) if self._is_bias(bias) else None

    def _is_bias(self, bias: Any, out: Tensor | None = None) -> bool:
        if not isinstance(bias, Tensor) or self.nodes[self._node(bias)].weight is None:
            return False
        return bias.ndim == 1 and (out is None or bias.shape[0] == out.shape[-1])

    def _biased(self, node: int, bias: Tensor) -> _Node:
        weight = self.nodes[self._node(bias)].weight
        return _Node("biased", (node,), bias=weight.name if weight else "")


def _is_plain(tensor: Tensor) -> bool:
    """Tell whether a tensor is an ordinary one, with strided entries in memory."""
    return type(tensor) in (Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and not tensor.is_meta


def _storage(tensor: Tensor) -> int:
    """Return the address of the memory that a tensor views; a unique number for other kinds of tensors."""
    return tensor.untyped_storage().data_ptr() if _is_plain(tensor) else -id(tensor)


def _number(name: str, args: Sequence[Any]) -> float | None:
    """Return the number that a tensor is multiplied by; None if there is none or it is unknown."""
    if name == "neg":
        return -1.0
    if name not in ("mul", "div") or not isinstance(args[1], (int, float)) or not args[1]:
        return None
    return float(args[1]) if name == "mul" else 1 / args[1]


def _moved(name: str, args: Sequence[Any], first: Tensor, out: Tensor) -> str:
    """Return what a view did to the matrix: "same", "turn" (transposed), "rows" (rows moved), or "" for the rest."""
    n = first.ndim
    if name in TURNS and n > 1:
        order = list(range(n))
        if name == "permute":
            order = [i % n for i in args[1]]
        elif name == "transpose":
            i, j = (i % n for i in args[1:3])
            order[i], order[j] = order[j], order[i]
        else:
            order = [*order[:-2], n - 1, n - 2]
        if order == [*range(n - 2), n - 1, n - 2]:
            return "turn"
        return "rows" if order[-1] == n - 1 else ""
    if name in ("select", "slice") and n:
        dim = (args[1] if len(args) > 1 else 0) % n
        return "same" if out.shape == first.shape else "rows" if dim != n - 1 else ""
    if name in VIEWS and n and out.ndim:
        same = out.shape[-2:] == first.shape[-2:]
        return "same" if same else "rows" if out.shape[-1] == first.shape[-1] else ""
    return ""


def _words(recorder: _Recorder) -> list[Word]:
    """Return the word of each node, a product of weights and other factors."""
    nodes, uses = recorder.nodes, recorder.uses
    words: list[Word] = []

    def taken(i: int) -> Word:
        weight = nodes[i].weight
        if weight is not None:
            single = uses[weight.name] == 1 and nodes[i].kind == WEIGHT
            return (weight,) if single and weight.turned is not None else (None,)
        return words[i] if len(nodes[i].takers) == 1 else (None,)  # a tensor with other uses is not part of a product

    for node in nodes:
        word: Word = (None,)
        if node.kind == "product":
            left, right = (taken(i) for i in node.inputs)
            word = (*left, *(right[1:] if left[-1] is None and right[0] is None else right))
        elif node.kind in ("same", "rows", "turn", "scaled", "biased"):
            word = taken(node.inputs[0])
            last = word[-1]
            if node.kind == "turn":
                bare = all(factor is None or not factor.bias for factor in word)
                word = tuple(f and replace(f, turned=not f.turned) for f in reversed(word)) if bare else (None,)
            elif node.kind == "rows":
                word = word if word[0] is None and None not in word[1:] else (None,)
            elif node.kind == "scaled":
                word = word if last is None else (*word[:-1], replace(last, scale=last.scale * node.number))
            elif node.kind == "biased":
                single = last is not None and word[0] is None and not last.bias and last.scale == 1
                once = single and uses[node.bias] == 1
                word = (*word[:-1], replace(last, bias=node.bias)) if once and last is not None else (None,)
        words.append(word)
    return words


def _runs(recorder: _Recorder) -> tuple[list[list[Factor]], dict[str, str]]:
    words = _words(recorder)
    found: list[list[Factor]] = []
    ends: dict[str, int] = {}
    for i, word in enumerate(words):
        ends |= {factor.name: i for factor in word if factor is not None}
        for none, run in groupby(word, key=lambda factor: factor is None):
            factors = [factor for factor in run if factor is not None]
            if none or len(factors) < 2:
                continue
            # In W x the columns are the samples, so the factor applied first stands last.
            columns = word[0] is not None and word[-1] is None
            if columns:
                factors = [replace(factor, turned=not factor.turned) for factor in reversed(factors)]
            found.append(factors)
    runs: list[list[Factor]] = []
    done: set[str] = set()
    # Among equal runs take the last one, which has all numbers and biases.
    for _, run in sorted(enumerate(found), key=lambda pair: (-len(pair[1]), -pair[0])):
        names = {factor.name for factor in run}
        if not names & done:
            runs.append(run)
            done |= names
    reasons = {
        name: _taken_by(recorder.nodes[i].takers)
        for name, i in ends.items()
        if name not in done and recorder.is_matrix(name)
    }
    others = {name: what for name, what in recorder.into.items() if name not in done | ends.keys()}
    reasons |= {
        name: f"it goes into {what}"
        for name, what in others.items()
        if recorder.is_matrix(name) and what != "embedding"  # selects rows, which does not look like a layer
    }
    often = {name: n for name, n in recorder.uses.items() if n > 1 and recorder.is_matrix(name)}
    reasons |= {name: f"it is used {n} times in one pass: its gradient is a sum" for name, n in often.items()}
    return runs, reasons


def _taken_by(takers: list[str]) -> str:
    """Say how a product is used."""
    words = [name.strip("_").removeprefix("native_").removeprefix("unsafe_") for name in takers]
    if not words:
        return "its product is not used"
    if len(words) > 1:
        return f"its product is used {len(words)} times: {', '.join(dict.fromkeys(words))}"
    return "its product is the output" if words == ["the output"] else f"its product goes into {words[0]}"

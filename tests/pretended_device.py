"""A device of PyTorch's that computes on the CPU and is as strict as a GPU about what may meet on it.

An operation on one of its tensors and a CPU tensor (of a dimension) is an error, `.numpy()` is refused, and only a
copy crosses over. So code that mixes devices fails where no GPU is present too. A process has it once and keeps it,
and must have it before the first derivative.
"""

from __future__ import annotations

from contextlib import contextmanager

from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

import torch

NAME = "pretended"
CROSSING = ("_to_copy", "copy_", "index", "index_put", "index_put_")  # a GPU takes CPU indices


class Pretended(torch.Tensor):
    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=torch.device(NAME, 0),
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    leaves, _ = tree_flatten((args, kwargs))
    tensors = [x for x in leaves if isinstance(x, torch.Tensor)]
    ours = [x for x in tensors if isinstance(x, Pretended)]
    name = func.overloadpacket.__name__
    if ours and name not in CROSSING and any(x.ndim > 0 for x in tensors if not isinstance(x, Pretended)):
        raise RuntimeError(f"expected all tensors on one device, but {name} was given some on {NAME} and some on cpu")
    asked = kwargs.get("device")
    here = torch.device(asked).type == NAME if asked is not None else bool(ours)
    if name in {"copy_", "index_put_"}:
        here = isinstance(args[0], Pretended)
    kept = {id(x.inner): x for x in ours}

    def inner(x):
        if isinstance(x, Pretended):
            return x.inner
        return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x

    def outer(x):
        if not isinstance(x, torch.Tensor):
            return x
        return kept[id(x)] if id(x) in kept else Pretended(x) if here else x

    return tree_map(outer, func(*tree_map(inner, args), **tree_map(inner, kwargs)))


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


_made: list[torch.device] = []


@contextmanager
def pretended_device():
    """Let `device=` make tensors of the pretended device, which is handed out."""
    if not _made:
        backend_registration._setup_privateuseone_for_python_backend(NAME)
        _made.append(torch.device(NAME, 0))
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device=)` is then a copy of a CPU tensor
    try:
        with _Mode():
            yield _made[0]
    finally:
        torch._C._set_only_lift_cpu_tensors(before)

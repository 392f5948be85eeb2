"""The layers of a network as npz and safetensors. PyTorch's `.pt` can be read, by its weights-only loader."""

from __future__ import annotations

import math
import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from linflow._support.arrays import to_numpy
from linflow._support.number_formats import FORMATS, decoded, dtype_name
from linflow._support.paths import (
    LIMIT,
    FileError,
    PathLike,
    check_size,
    decoding,
    import_for,
    one_line,
    quote,
    readable,
    suffix,
    write_bytes,
    write_whole,
)
from linflow._support.words import listed
from linflow.files._layers import decoded_size, network_from
from linflow.files._numpy import check_archive, read_npz
from linflow.model.network import Network

WRITTEN = (".npz", ".safetensors")
TORCH = (".pt", ".pth", ".ckpt", ".bin")
"""Suffixes of the files that torch.save, Lightning and Hugging Face write."""
READ = (*WRITTEN, *TORCH)

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2",
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1",
    "F8_E4M3": "u1", "F8_E5M2": "u1", "F8_E4M3FNUZ": "u1", "F8_E5M2FNUZ": "u1",
}  # fmt: skip
_EIGHT_BITS = {
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


def save_weights(network: Network | Sequence[Any], path: PathLike) -> None:
    """Write the layers `W1, W2, …` and the output scale as `.npz` or `.safetensors`; the suffix decides.

    Arrays of any kind are written in float64, exactly. In an npz the scale is the 0-d array `scale`. Safetensors has
    no scalars besides tensors, so there the scale is in the metadata, in decimals that read back to the same number.

    Args:
        network: a `Network` or its weights.
        path: the file to write. An existing file is replaced atomically (`atomic`).

    Raises:
        FileError: another suffix.
        OSError: the file cannot be written.

    Example:
        >>> import os, tempfile, linflow as lf
        >>> from linflow.files import load_weights, save_weights
        >>> net = lf.init.ntk((2, 100, 3), rng=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "start.npz")
        ...     save_weights(net, path)
        ...     back = load_weights(path)
        >>> back, bool((back.weights[0] == net.weights[0]).all())
        (Network(2×100×3, scale=0.1, numpy), True)
    """
    end = suffix(path, WRITTEN, "weights are written as")
    network = Network.of(network)
    layers = {f"W{l}": np.ascontiguousarray(to_numpy(W)) for l, W in enumerate(network.weights, 1)}
    if end == ".npz":
        write_bytes(path, lambda file: np.savez(file, **layers, scale=np.float64(network.scale)))  # type: ignore[arg-type]
        return
    told = {"format": "np", "scale": repr(network.scale)}
    write_whole(path, import_for("safetensors.numpy", path).save(layers, metadata=told))


def load_weights(
    path: PathLike, *, convention: str | None = None, layers: Sequence[str] | None = None, limit: int = LIMIT
) -> Network:
    """Read the layers of a network from `.npz`, `.safetensors`, or `.pt`, `.pth`, `.ckpt`, `.bin` (PyTorch).

    The layers are all the 2-D arrays of the file. If their names differ only in numbers, the numbers give the order
    (W2 before W10). Otherwise the layers of a `.pt` are taken in the order in which they were saved, and `notes` says
    so; other files are refused, and need `layers`. Smaller floats and integers become float64 (exactly up to
    2^53), and `notes` says so. Biases are accepted if they are zero.

    There are two conventions. "product": `W_l` is (inputs, outputs) and the layers multiply left to right,
    `X W_1 W_2 ⋯ W_L`. "torch": each layer is (outputs, inputs), as `nn.Linear` stores it, and is transposed; `notes`
    says so. If no convention is given and the shapes allow only one, that one is used. If the shapes allow both, as
    square ones do, the names decide: "torch" if all end in ".weight", as in a `state_dict`, else "product".

    Args:
        path: the file. Nothing in it is run: a `.pt` is read by PyTorch's weights-only loader.
        convention: "product", "torch", or None to detect it.
        layers: the names of the layers, first applied first. Other arrays in the file are left out.
        limit: the most bytes that the arrays may take in float64; checked before they are decoded.

    Returns:
        A `Network` of NumPy arrays; its scale is 1 if the file has none.

    Raises:
        FileError: the content is not the layers of a network, has no known order, is damaged, hostile or too large.
        OSError: no such file, or no permission to read it.
        ImportError: a package that the format needs is not installed.

    Example:
        >>> import os, tempfile, numpy as np
        >>> from linflow.files import load_weights
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "other.npz")
        ...     np.savez(path, **{"0.weight": np.ones((50, 2)), "1.weight": np.ones((3, 50))})
        ...     net = load_weights(path)
        >>> net.widths, net.notes
        ((2, 50, 3), ("the layers '0.weight', '1.weight' were read as those of nn.Linear, each transposed",))
    """
    end = suffix(path, READ, "weights are read from")
    file = readable(path)
    if end == ".npz":
        return network_from(read_npz(file, limit), file, convention=convention, layers=layers)
    if end == ".safetensors":
        arrays, stored, scale = read_safetensors(file, limit)
        return network_from(arrays, file, scale=scale, convention=convention, layers=layers, stored=stored)
    arrays, stored, notes = read_torch(file, limit)
    return network_from(arrays, file, convention=convention, layers=layers, ordered=True, stored=stored, notes=notes)


def read_safetensors(
    path: Path, limit: int, passed: dict[str, str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str], float | None]:
    """Return the arrays of a safetensors file, the dtypes that NumPy lacks (by array name), and the stored scale.

    bfloat16 and eight-bit floats become float32, exactly. The scale comes from the metadata. Tensors that do not hold
    real numbers are refused. If `passed` is given, they are skipped instead, and it receives the reasons.
    """
    package = import_for("safetensors", path)
    with decoding(path, ".safetensors"):
        # The package checks the header, including offsets, without reading the data.
        with package.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            for name, part in list(slices.items()):
                kind = part.get_dtype()
                if kind in _DTYPES:
                    continue
                if passed is None:
                    raise FileError(f"{quote(path)}: {name!r} has dtype {kind}; convert it to float32.")
                passed[name] = f"it is of dtype {kind}: no weights"
                del slices[name]
            check_size(decoded_size([tuple(part.get_shape()) for part in slices.values()]), limit, path)
        tensors = package.deserialize(path.read_bytes())
    arrays, stored = {}, {}
    with decoding(path, ".safetensors"):
        for name, info in tensors:
            if name not in slices:
                continue
            x = np.frombuffer(info["data"], _DTYPES[info["dtype"]])
            if info["dtype"] == "BF16":  # the upper half of a float32
                stored[name], x = "bfloat16", (x.astype(np.uint32) << 16).view(np.float32)
            elif info["dtype"] in _EIGHT_BITS:
                stored[name] = _EIGHT_BITS[info["dtype"]]
                x = decoded(x, stored[name])
            arrays[name] = x.reshape(info["shape"])
    return arrays, stored, _scale(metadata, path)


def _scale(metadata: Mapping[str, str], path: Path) -> float | None:
    text = metadata.get("scale")
    if text is None:
        return None
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not 0 < scale < math.inf:
        raise FileError(
            f"{quote(path)}: its scale is {text[:40]!r}; a positive number is needed. Correct the metadata."
        )
    return scale


def read_torch(
    path: Path, limit: int, passed: dict[str, str] | None = None
) -> tuple[dict[str, np.ndarray], dict[str, str], tuple[str, ...]]:
    """Return the tensors of a file written by `torch.save` as arrays, their dtypes, and notes.

    Nothing in the file is run. Tensors that are not dense real numbers are refused. If `passed` is given, they are
    skipped instead, and it receives the reasons.
    """
    with open(path, "rb") as file:
        if file.read(2) != b"PK":
            raise FileError(
                f"{quote(path)} was not written by torch.save of PyTorch 1.6 or later. If you "
                "trust it, load it with PyTorch and save model.state_dict() again, preferably as .safetensors."
            )
    with decoding(path, "a PyTorch file"), zipfile.ZipFile(path) as archive:
        members = check_archive(archive, path)
        check_size(sum(info.file_size for info in members), limit, path)
        broken = archive.testzip()  # PyTorch does not compare the checksums
        if broken is not None:
            raise FileError(
                f"{quote(path)} is corrupt: {broken!r} does not have its checksum. Save or fetch it again."
            )
        packed = [info.filename for info in members if info.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise FileError(f"{quote(path)} holds {packed[0]!r}, compressed, as torch.save does not; save it again.")
        for info in members:
            if info.filename.endswith(".pkl"):
                _check_pickle(archive.read(info), path)
        inner = {info.filename.partition("/")[2] for info in members}
    if "constants.pkl" in inner or any(name.startswith("code/") for name in inner):
        raise FileError(f"{quote(path)} is a TorchScript archive, which holds code; save model.state_dict() instead.")
    torch = import_for("torch", path)
    try:
        # Mapped, a tensor lies within the file, whatever size it claims.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        if isinstance(error, pickle.UnpicklingError):
            refused = re.search(r"GLOBAL [\w.]+", str(error))
            found = refused.group() if refused else "refused by PyTorch's weights-only loader"
            raise FileError(
                f"{quote(path)} holds code or objects besides tensors, which are not loaded as that runs code "
                f"({found}); where you trust it, load it with PyTorch and save model.state_dict() again, "
                "best as .safetensors."
            ) from error
        raise FileError(
            f"{quote(path)} cannot be read by PyTorch: it is truncated or corrupt ({one_line(error)}). Save it again."
        ) from error
    tensors, notes = _tensors(content, torch.Tensor, path)
    check_size(decoded_size([tuple(x.shape) for x in tensors.values()]), limit, path)
    if passed is not None:
        for name, x in list(tensors.items()):
            if not _dense(x, torch):
                passed[name] = f"it is of dtype {dtype_name(x.dtype)}, {x.layout}, on {x.device.type}: no weights"
                del tensors[name]
    stored = {name: dtype_name(x.dtype) for name, x in tensors.items()}
    return {name: _from_torch(x, name, torch, path) for name, x in tensors.items()}, stored, notes


def _check_pickle(content: bytes, path: Path) -> None:
    """Refuse bytearray(N), which PyTorch's weights-only loader allows, and which takes any amount of memory."""
    try:
        found = any(
            code.name == "GLOBAL" and str(argument).endswith(" bytearray")
            for code, argument, _ in pickletools.genops(content)
        )
    except ValueError:  # not a pickle; PyTorch says so
        return
    if found:
        raise FileError(
            f"{quote(path)} makes a bytearray, which can take any amount of memory; save model.state_dict() alone."
        )


def _tensors(content: Any, kind: type, path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the tensors of a state dict, of the only state dict in a checkpoint, or of a list, with notes."""
    if isinstance(content, kind):
        return {"W1": content}, ()
    if isinstance(content, (list, tuple)):
        content = {f"W{l}": x for l, x in enumerate(content, 1)}
    if isinstance(content, Mapping):
        if content and all(isinstance(x, kind) for x in content.values()):
            return {str(name): x for name, x in content.items()}, ()
        inner = [
            (name, x)
            for name, x in content.items()
            if isinstance(x, Mapping) and x and all(isinstance(y, kind) for y in x.values())
        ]
        if len(inner) == 1:
            name, state = inner[0]
            return {str(key): x for key, x in state.items()}, (f"the layers were read from its entry {name!r}",)
    found = f"an object of type {type(content).__name__}"
    if isinstance(content, Mapping):
        found = f"a dict of {listed(content)}" if content else "an empty dict"
    raise FileError(f"{quote(path)} holds {found}, not tensors alone; save model.state_dict().")


def _dense(x: Any, torch: Any) -> bool:
    """Tell whether a tensor is dense, holds real numbers, and is in CPU memory."""
    real = not (x.is_quantized or x.is_complex()) and x.device.type == "cpu" and x.layout == torch.strided
    return real and ((x.is_floating_point() and dtype_name(x.dtype) in FORMATS) or _integers(x))


def _integers(x: Any) -> bool:
    return dtype_name(x.dtype) in {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


def _from_torch(x: Any, name: str, torch: Any, path: Path) -> np.ndarray:
    if not _dense(x, torch):
        raise FileError(
            f"{quote(path)}: {name!r} is a {x.dtype} tensor on {x.device.type} with layout {x.layout}; a dense "
            "tensor of real numbers is needed: save x.to_dense().float()."
        )
    wide = x.dtype in (torch.float16, torch.float32, torch.float64) or not x.is_floating_point()
    x = x.detach() if wide else x.detach().float()
    return x.resolve_neg().numpy()

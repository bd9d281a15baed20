"""Where somebody else's logits lie: torch tensors, numpy arrays, whatever has ``__dlpack__`` or a buffer. Nothing is copied."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple

import numpy as np

from . import _native
from ._native import PITA_DTYPE_BF16, PITA_DTYPE_F16, PITA_DTYPE_F32

_BY_NAME = {"float32": PITA_DTYPE_F32, "float16": PITA_DTYPE_F16, "bfloat16": PITA_DTYPE_BF16}
# A name takes numpy a microsecond.
_BY_DTYPE = {np.dtype(np.float32): PITA_DTYPE_F32, np.dtype(np.float16): PITA_DTYPE_F16}
_SIZES = {PITA_DTYPE_F32: 4, PITA_DTYPE_F16: 2, PITA_DTYPE_BF16: 2}
_WANTED = "logits are float32, float16 or bfloat16"


class Logits(NamedTuple):
    """Rows in somebody else's memory, as a pita_batch_t has them."""

    pointer: int
    dtype: int
    device: int
    rows: int
    vocab_size: int
    row_stride: int
    stream: int
    # Of shape (vocabulary,).
    is_row: bool
    # Keeps the memory alive.
    owner: Any


def view(logits: Any, stream: int | None = None) -> Logits:
    """Looks at rows x vocab_size logits, or at a single row.

    Args:
        logits: a torch tensor, a numpy array, or an object with ``__dlpack__`` or a buffer; float32, float16 or bfloat16.
            The elements of a row lie side by side.
        stream: the CUDA stream on which they are made; None is torch's current one, or else the default one.

    Raises:
        TypeError: it is no such object, or has elements of another type.
        ValueError: it has another shape or layout.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(logits, torch.Tensor):
        return _of_tensor(torch, logits, stream)
    if isinstance(logits, np.ndarray):
        return _of_array(logits)
    if hasattr(logits, "__dlpack__"):
        return _of_dlpack(logits, stream)
    try:
        buffer = memoryview(logits)
    except TypeError:
        raise TypeError(f"logits are a {type(logits).__name__}, which has neither __dlpack__ nor a buffer") from None
    return _of_array(np.asarray(buffer))


def _of_tensor(torch: Any, tensor: Any, stream: int | None) -> Logits:
    dtype = _dtype(str(tensor.dtype).rpartition(".")[2])
    if tensor.is_neg():
        raise ValueError("logits are a view that negates; tensor.resolve_neg() makes values of it")
    device = tensor.device.type
    if device == "cpu":
        kind, stream = _native.PITA_DEVICE_CPU, 0
    elif device == "cuda":
        kind = _native.PITA_DEVICE_CUDA
        if stream is None:
            stream = torch.cuda.current_stream(tensor.device).cuda_stream
    else:
        raise TypeError(f"logits are on the device {tensor.device}; the CPU and CUDA are possible")
    return _checked(tensor.data_ptr(), dtype, kind, tuple(tensor.shape), tensor.stride(), stream, tensor)


def _of_array(array: np.ndarray) -> Logits:
    dtype = _BY_DTYPE.get(array.dtype)
    if dtype is None:
        dtype = _dtype(array.dtype.name)
        if not array.dtype.isnative:
            raise TypeError(f"logits are {array.dtype.str}, of another byte order; {_WANTED}")
    strides = None if array.flags.c_contiguous else _in_elements(array, _SIZES[dtype])
    pointer = array.__array_interface__["data"][0]
    return _checked(pointer, dtype, _native.PITA_DEVICE_CPU, array.shape, strides, 0, array)


def _in_elements(array: np.ndarray, size: int) -> tuple[int, ...]:
    """The strides of an array of elements of `size` bytes."""
    # As in a field of a structured array.
    for extent, stride in zip(array.shape, array.strides):
        if extent > 1 and stride % size:
            raise ValueError(f"logits are {stride} bytes apart, which is no multiple of the {size} of one")
    return tuple(stride // size for stride in array.strides)


def _dtype(name: str) -> int:
    try:
        return _BY_NAME[name]
    except KeyError:
        raise TypeError(f"logits are {name}; {_WANTED}") from None


def _checked(
    pointer: int,
    dtype: int,
    device: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None,
    stream: int | None,
    owner: Any,
) -> Logits:
    """Rows of logits, if they are that; `strides` are in elements, None where there are no gaps."""
    is_row = len(shape) == 1
    if is_row:
        shape, strides = (1, *shape), strides and (shape[0], *strides)
    if len(shape) != 2:
        raise ValueError(f"logits have the shape {tuple(shape)}, not (vocabulary,) or (rows, vocabulary)")
    rows, vocab_size = shape
    row_stride = vocab_size
    # Of no logits at all the library says what is wrong with that.
    if strides and rows and vocab_size:
        if vocab_size > 1 and strides[1] != 1:
            raise ValueError(f"the elements of a row of logits are {strides[1]} elements apart; they have to lie side by side")
        if rows > 1:
            row_stride = strides[0]
        if row_stride < vocab_size:
            raise ValueError(f"rows of logits are {row_stride} elements apart, less than the {vocab_size} of a row")
    return Logits(pointer, dtype, device, rows, vocab_size, row_stride, stream or 0, is_row, owner)


# --- DLPack ----------------------------------------------------------------------------------------------------------

_KINDS = {(2, 32): PITA_DTYPE_F32, (2, 16): PITA_DTYPE_F16, (4, 16): PITA_DTYPE_BF16}
# Memory of the host that CUDA has pinned is the host's; managed memory is read where it is.
_DEVICES = {1: _native.PITA_DEVICE_CPU, 2: _native.PITA_DEVICE_CUDA, 3: _native.PITA_DEVICE_CPU, 13: _native.PITA_DEVICE_CUDA}


class _DLTensor(ctypes.Structure):
    """DLTensor of dlpack.h, with which a DLManagedTensor begins."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


# ctypes.pythonapi.PyCapsule_GetPointer belongs to everybody; this one is ours.
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _of_dlpack(logits: Any, stream: int | None) -> Logits:
    on_cuda = _DEVICES.get(logits.__dlpack_device__()[0]) == _native.PITA_DEVICE_CUDA
    # 1 is DLPack's number of CUDA's default stream.
    capsule = logits.__dlpack__(stream=stream or 1) if on_cuda else logits.__dlpack__()
    # The capsule keeps the memory, and gives it back when it is gone itself.
    tensor = _DLTensor.from_address(_pointer_of(capsule, b"dltensor"))
    dtype = _KINDS.get((tensor.code, tensor.bits)) if tensor.lanes == 1 else None
    if dtype is None:
        raise TypeError(f"logits have DLPack's type code {tensor.code} with {tensor.bits} bits; {_WANTED}")
    device = _DEVICES.get(tensor.device_type)
    if device is None:
        raise TypeError(f"logits are on DLPack's device {tensor.device_type}; the CPU and CUDA are possible")
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else None
    pointer = (tensor.data or 0) + tensor.byte_offset
    return _checked(pointer, dtype, device, shape, strides, stream if on_cuda else 0, capsule)

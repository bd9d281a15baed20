"""Where logits are read: in place, from any kind of array."""

import array
import ctypes
import sys

import ml_dtypes
import numpy as np
import pytest

import dlpack
import reference
from pita_redis import _native, compute
from pita_redis._logits import view


class Dlpack:
    """An object with nothing but DLPack's methods."""

    def __init__(self, owner, device=None):
        self._owner, self._device = owner, device

    def __dlpack__(self, **arguments):
        return self._owner.__dlpack__(**arguments)

    def __dlpack_device__(self):
        return self._device or self._owner.__dlpack_device__()


def address(owner):
    return owner.__array_interface__["data"][0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numpy_is_read_where_it_is(dtype):
    logits = reference.rows(3, 1000).astype(dtype)
    seen = view(logits)
    assert (seen.pointer, seen.rows, seen.vocab_size, seen.row_stride) == (address(logits), 3, 1000, 1000)
    assert seen.device == _native.PITA_DEVICE_CPU
    wanted = [reference.metrics(row, 0.25) for row in logits.astype(np.float32)]
    np.testing.assert_allclose(compute(logits, 0.25), wanted, rtol=1e-6)


def test_a_part_of_an_array_is_read_where_it_is():
    logits = reference.rows(6, 1000)
    part = logits[1::2, 100:900]
    seen = view(part)
    assert (seen.pointer, seen.rows, seen.vocab_size, seen.row_stride) == (address(logits) + 4 * 1100, 3, 800, 2000)
    np.testing.assert_allclose(compute(part), [reference.metrics(row) for row in part], rtol=1e-6)


def test_a_row_is_one_row():
    logits = reference.rows(1, 1000)[0]
    assert compute(logits, 0.5).shape == (3,)
    np.testing.assert_allclose(compute(logits, 0.5), reference.metrics(logits, 0.5), rtol=1e-6)
    assert compute(logits[np.newaxis]).shape == (1, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_dlpack_is_read_where_it_is(dtype):
    logits = reference.rows(4, 500).astype(dtype)
    seen = view(Dlpack(logits[::2]))
    assert (seen.pointer, seen.rows, seen.vocab_size, seen.row_stride) == (address(logits), 2, 500, 1000)
    np.testing.assert_array_equal(compute(Dlpack(logits)), compute(logits))


def test_dlpack_is_kept_while_it_is_read_and_no_longer():
    logits = reference.rows(2, 500)
    before = sys.getrefcount(logits)
    seen = view(Dlpack(logits))
    assert sys.getrefcount(logits) == before + 1
    del seen
    assert sys.getrefcount(logits) == before


def test_buffers_are_read_where_they_are():
    floats = array.array("f", [1, 2, 3])
    assert view(floats).pointer == floats.buffer_info()[0]
    np.testing.assert_allclose(compute(floats), reference.metrics([1, 2, 3]), rtol=1e-6)
    memory = (ctypes.c_float * 3)(1, 2, 3)
    assert view(memory).pointer == ctypes.addressof(memory)


def test_bfloat16_by_dlpack():
    """No array of the CPU's hands out a bfloat16 by DLPack without torch."""
    logits = reference.rows(2, 64).astype(ml_dtypes.bfloat16)
    holder = dlpack.ByHand(address(logits), dlpack.CPU, dlpack.BFLOAT, 16, (2, 64))
    seen = view(holder)
    assert seen[:6] == (address(logits), _native.PITA_DTYPE_BF16, _native.PITA_DEVICE_CPU, 2, 64, 64)
    np.testing.assert_array_equal(compute(holder), compute(logits))


@pytest.mark.parametrize(
    "logits, error, words",
    [
        (np.zeros((2, 3)), TypeError, "float64"),
        (np.zeros((2, 3), ">f4"), TypeError, "byte order"),
        (np.zeros((2, 3), np.int32), TypeError, "int32"),
        (np.zeros((2, 3, 4), np.float32), ValueError, r"\(2, 3, 4\)"),
        (np.zeros((), np.float32), ValueError, "shape"),
        (np.zeros((2, 6), np.float32)[:, ::2], ValueError, "2 elements apart"),
        (np.zeros((3, 2), np.float32).T, ValueError, "side by side"),
        (np.broadcast_to(np.zeros(3, np.float32), (2, 3)), ValueError, "0 elements apart"),
        (np.zeros((2, 3), np.float32)[::-1], ValueError, "-3 elements apart"),
        ([[1.0, 2.0]], TypeError, "a list"),
        ("logits", TypeError, "a str"),
        (b"1234", TypeError, "uint8"),
        (np.zeros((0, 3), np.float32), ValueError, "len is 0"),
        (np.zeros((2, 0), np.float32), ValueError, "vocab_size"),
        (Dlpack(np.zeros((2, 3))), TypeError, "64 bits"),
    ],
)
def test_other_things_are_refused_in_words(logits, error, words):
    with pytest.raises(error, match=words):
        compute(logits)


def test_other_devices_are_refused_in_words():
    with pytest.raises(TypeError, match="device 10"):
        view(dlpack.ByHand(4096, (10, 0), dlpack.FLOAT, 32, (8,)))


torch_only = pytest.mark.skipif("not __import__('importlib').util.find_spec('torch')", reason="torch is not installed")


@torch_only
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_torch_is_read_where_it_is(name):
    import torch

    logits = torch.from_numpy(reference.rows(4, 1000)).to(getattr(torch, name))
    seen = view(logits[1:3, 100:])
    assert (seen.pointer, seen.rows) == (logits[1:3, 100:].data_ptr(), 2)
    assert (seen.vocab_size, seen.row_stride) == (900, 1000)
    wanted = [reference.metrics(row, 0.25) for row in logits.float().numpy()]
    np.testing.assert_allclose(compute(logits, 0.25), wanted, rtol=1e-6)
    np.testing.assert_array_equal(compute(Dlpack(logits)), compute(logits))


@torch_only
@pytest.mark.parametrize("dtype, device", [("float64", "cpu"), ("float32", "meta")])
def test_other_tensors_are_refused_in_words(dtype, device):
    import torch

    with pytest.raises(TypeError, match=dtype if device == "cpu" else device):
        compute(torch.zeros(2, 3, dtype=getattr(torch, dtype), device=device))


@torch_only
def test_a_view_that_negates_is_refused():
    import torch

    logits = torch.complex(torch.zeros(2, 8), torch.ones(2, 8)).conj().imag
    assert logits.is_neg() and logits.shape == (2, 8)
    with pytest.raises(ValueError, match="resolve_neg"):
        compute(logits)


def test_a_cuda_buffer_goes_to_the_library_with_its_pointer_and_stream():
    """Without a driver the library refuses it; what it would get is seen here."""
    holder = dlpack.ByHand(4096, dlpack.CUDA, dlpack.FLOAT, 16, (2, 8), byte_offset=64)
    seen = view(holder, 77)
    assert seen[:7] == (4096 + 64, _native.PITA_DTYPE_F16, _native.PITA_DEVICE_CUDA, 2, 8, 8, 77)
    assert view(holder).stream == 0
    assert holder.streams == [77, 1]
    with pytest.raises(NotImplementedError, match="PITA_ERR_UNSUPPORTED"):
        compute(holder)


def test_fields_of_records_are_refused_where_they_lie_between_elements():
    records = np.zeros(8, [("logit", np.float32), ("flag", np.uint8)])
    with pytest.raises(ValueError, match="5 bytes apart"):
        compute(records["logit"])
    rows = np.zeros((2, 3), np.float32).view(np.uint8).reshape(2, 12)
    odd = np.lib.stride_tricks.as_strided(rows.view(np.float32), (2, 2), (6, 4))
    with pytest.raises(ValueError, match="6 bytes apart"):
        compute(odd)


def test_memory_that_cuda_manages_is_read_where_it_is():
    managed = dlpack.ByHand(4096, (13, 0), dlpack.FLOAT, 32, (8,))
    assert view(managed, 5).device == _native.PITA_DEVICE_CUDA
    pinned = dlpack.ByHand(4096, (3, 0), dlpack.FLOAT, 32, (8,))
    assert view(pinned, 5).device == _native.PITA_DEVICE_CPU


def test_the_capsule_function_is_our_own():
    """The one of ctypes.pythonapi is everybody's: whoever sets its types sets them for all."""
    from pita_redis import _logits

    assert _logits._pointer_of is not ctypes.pythonapi.PyCapsule_GetPointer

"""Arrays by DLPack alone, on whatever device: their capsules made by hand."""

import ctypes

from pita_redis._logits import _DLTensor

CPU, CUDA = (1, 0), (2, 0)
FLOAT, BFLOAT = 2, 4

_new_capsule = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(
    ("PyCapsule_New", ctypes.pythonapi)
)


class ByHand:
    """Nothing but DLPack's two methods, over a DLTensor without strides."""

    def __init__(self, pointer, device, code, bits, shape, byte_offset=0):
        self.shape = shape
        self._device = device
        extents = (ctypes.c_int64 * len(shape))(*shape)
        self._tensor = _DLTensor(pointer, *device, len(shape), code, bits, 1, extents, None, byte_offset)
        #: The streams that were asked for.
        self.streams = []

    def __dlpack__(self, stream=None):
        self.streams.append(stream)
        return _new_capsule(ctypes.addressof(self._tensor), b"dltensor", None)

    def __dlpack_device__(self):
        return self._device

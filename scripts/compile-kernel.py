"""Compiles the GPU's kernel to PTX with NVRTC, in a Python that has it, and prints the PTX: compile-kernel.py SOURCE."""

import ctypes
import pathlib
import sys

# The oldest architecture that is supported: the driver makes code of its PTX for any newer GPU.
OPTIONS = [b"--gpu-architecture=compute_75", b"--std=c++14"]


class Program:
    """A program of NVRTC's: https://docs.nvidia.com/cuda/nvrtc."""

    def __init__(self, source: bytes) -> None:
        (library,) = (
            path for folder in sys.path for path in pathlib.Path(folder).glob("nvidia/cuda_nvrtc/lib/libnvrtc.so.*")
        )
        self._nvrtc = ctypes.CDLL(str(library))
        self._program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(self._program), source, b"reduce.cu", 0, None, None)

    def compile(self) -> None:
        options = (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)
        status = self._nvrtc.nvrtcCompileProgram(self._program, len(OPTIONS), options)
        print(self._text("ProgramLog"), file=sys.stderr, end="")
        if status:
            sys.exit(f"compile-kernel: NVRTC fails with status {status}")

    def ptx(self) -> str:
        return self._text("PTX")

    def _text(self, of: str) -> str:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{of}Size", self._program, ctypes.byref(size))
        buffer = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{of}", self._program, buffer)
        return buffer.value.decode()

    def _call(self, function: str, *arguments: object) -> None:
        if status := getattr(self._nvrtc, function)(*arguments):
            sys.exit(f"compile-kernel: {function} fails with status {status}")


program = Program(pathlib.Path(sys.argv[1]).read_bytes())
program.compile()
print(program.ptx(), end="")

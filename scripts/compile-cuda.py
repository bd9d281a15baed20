"""Compiles src/cuda/reduce.cu to PTX with NVRTC, and prints it: scripts/compile-cuda.py LIBNVRTC SOURCE."""

import ctypes
import sys

# The oldest architecture; the driver makes code of the PTX for the GPU that there is, be it newer than this.
OPTIONS = [b"--gpu-architecture=compute_75", b"--std=c++14", b"--device-as-default-execution-space"]
OPTIONS = OPTIONS[:2]


def main() -> None:
    nvrtc, source = ctypes.CDLL(sys.argv[1]), open(sys.argv[2], "rb").read()

    def call(name, *args):
        status = getattr(nvrtc, name)(*args)
        return status

    def text(of):
        size = ctypes.c_size_t()
        assert call(f"nvrtcGet{of}Size", program, ctypes.byref(size)) == 0
        buffer = ctypes.create_string_buffer(size.value)
        assert call(f"nvrtcGet{of}", program, buffer) == 0
        return buffer.value.decode()

    program = ctypes.c_void_p()
    assert call("nvrtcCreateProgram", ctypes.byref(program), source, b"reduce.cu", 0, None, None) == 0
    options = (ctypes.c_char_p * len(OPTIONS))(*OPTIONS)
    status = call("nvrtcCompileProgram", program, len(OPTIONS), options)
    if log := text("ProgramLog"):
        print(log, file=sys.stderr)
    if status:
        sys.exit(f"compile-cuda: NVRTC fails with status {status}")
    print(text("PTX"), end="")


main()

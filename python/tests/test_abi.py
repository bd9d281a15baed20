"""The ctypes declarations against the header, word for word."""

import ctypes
import pathlib
import re

import pytest

from pita_redis import _native, errors

HEADER = (pathlib.Path(__file__).parents[2] / "include" / "pita_redis.h").read_text()
CODE = re.sub(r"//.*", "", re.sub(r"/\*.*?\*/", "", HEADER, flags=re.DOTALL))

NUMBERS = {
    "int": ctypes.c_int,
    "int32_t": ctypes.c_int32,
    "int64_t": ctypes.c_int64,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
    "size_t": ctypes.c_size_t,
    "float": ctypes.c_float,
    "double": ctypes.c_double,
    "pita_status_t": ctypes.c_int32,
}


def ctype(declaration):
    """The ctypes of a C type, and the name that it is declared with."""
    declaration = declaration.replace("struct ", "").strip()
    kind, name = re.fullmatch(r"(.*?)\s*(\w+)?", declaration).groups() if "*" in declaration else declaration.rsplit(None, 1)
    words = kind.replace("*", " * ").split()
    base, depth = [word for word in words if word not in ("*", "const")][0], words.count("*")
    if depth == 0:
        return getattr(_native, base, None) or NUMBERS[base], name
    if base == "char":
        return {1: ctypes.c_char_p, 2: ctypes.POINTER(ctypes.c_char_p)}[depth], name
    structure = getattr(_native, base, None)
    # Out parameters of one number are pointers to it; arrays of numbers and records are addresses.
    if base == "size_t" and name == "count":
        return ctypes.POINTER(ctypes.c_size_t), name
    if structure is None or base in ("pita_metrics_t", "pita_status_t"):
        return ctypes.c_void_p, name
    return ctypes.POINTER(structure), name


def constants():
    return re.findall(r"^#define (PITA_\w+) (-?\d+)u?$", CODE, re.MULTILINE)


def structures():
    return re.findall(r"typedef struct (\w+) \{(.*?)\} \1;", CODE, re.DOTALL)


def functions():
    found = re.findall(r"^([\w *]+?[ *])(pita_\w+)\(((?:[^()]|\([^()]*\))*?)\);", CODE, re.MULTILINE)
    return [(name, result, " ".join(arguments.split())) for result, name, arguments in found]


def test_the_header_is_understood():
    assert len(constants()) == 29
    assert [name for name, _ in structures()] == [
        "pita_latency_t",
        "pita_stats_t",
        "pita_batch_t",
        "pita_metrics_t",
        "pita_slot_batch_t",
    ]
    assert len(functions()) == 22


@pytest.mark.parametrize("name, value", constants())
def test_constants(name, value):
    assert getattr(_native, name) == int(value)


def test_there_are_no_other_constants():
    known = {name for name, _ in constants()}
    assert {name for name in vars(_native) if name.startswith("PITA_")} == known


@pytest.mark.parametrize("name, body", structures())
def test_structures(name, body):
    declared = [ctype(field) for field in body.split(";") if field.strip()]
    assert [(field, kind) for kind, field in declared] == [tuple(field) for field in getattr(_native, name)._fields_]


@pytest.mark.parametrize("name, result, arguments", functions())
def test_functions(name, result, arguments):
    wanted_result, wanted_arguments = _native.FUNCTIONS[name]
    assert wanted_result == (None if result.strip() == "void" else ctype(result + " result")[0])
    if name == "pita_set_log_callback":
        # A function pointer: what it takes and gives is in the types of ctypes.
        assert arguments == "void (*callback)(int level, const char *message, void *user), void *user"
        assert (_native.LogCallback._restype_, _native.LogCallback._argtypes_) == (
            None,
            (ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p),
        )
        assert wanted_arguments == [_native.LogCallback, ctypes.c_void_p]
        return
    declared = [] if arguments == "void" else [ctype(argument)[0] for argument in arguments.split(",")]
    assert wanted_arguments == declared
    function = getattr(_native.lib, name)
    assert (function.restype, list(function.argtypes)) == (wanted_result, wanted_arguments)


def test_there_are_no_other_functions():
    assert set(_native.FUNCTIONS) == {name for name, _, _ in functions()}


@pytest.mark.parametrize("name, value", [(name, value) for name, value in constants() if name.startswith("PITA_ERR_")])
def test_each_status_has_an_exception(name, value):
    error = errors.BY_STATUS[int(value)]("words")
    assert (error.status, error.name, error.message) == (int(value), name, "words")
    assert str(error) == f"{name}: words"

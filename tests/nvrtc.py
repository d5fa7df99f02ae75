"""NVRTC through ctypes: compiles CUDA text where its wheel is installed, with or without a GPU."""

import ctypes
from functools import cache
from importlib.metadata import PackageNotFoundError, files

from schuss.engines.cuda import COMPILER_OPTIONS


@cache
def library():
    """Return the library, or None where no wheel of it is installed."""
    for package in ("nvidia-cuda-nvrtc", "nvidia-cuda-nvrtc-cu12"):
        try:
            found = [file for file in files(package) or () if file.name.startswith("libnvrtc.so")]
        except PackageNotFoundError:
            continue
        return ctypes.CDLL(str(found[0].locate()))
    return None


def compile_for(text, architecture):
    """Compile a text for an architecture such as "sm_90"; return the log, "" where all is well, and the machine code."""
    nvrtc, program = library(), ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"fused.cu", 0, None, None) == 0
    options = [option.encode() for option in (*COMPILER_OPTIONS, f"--gpu-architecture={architecture}")]
    failed = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    log = _text(program, nvrtc.nvrtcGetProgramLogSize, nvrtc.nvrtcGetProgramLog)
    code = b"" if failed else _text(program, nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return log.rstrip(b"\0").decode() if failed else "", code


def _text(program, size_of, get):
    size = ctypes.c_size_t()
    size_of(program, ctypes.byref(size))
    found = ctypes.create_string_buffer(size.value)
    get(program, found)
    return found.raw

"""CUDA text to machine code and its listing, without a GPU: NVRTC and nvdisasm from PyPI.

NVRTC is called as CuPy calls it (through ctypes: CuPy's own wrapper cuts a byte off the cubin).
"""

from __future__ import annotations

import ctypes
import re
import subprocess
import tempfile
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from gpusoftmax.cuda.compile import OPTIONS

NVRTC, NVDISASM = r"/libnvrtc\.so\.\d+$", r"/nvdisasm$"


def missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    for package, pattern in (("nvidia-cuda-nvrtc", NVRTC), ("nvidia-cuda-nvdisasm", NVDISASM)):
        try:
            _file_of(package, pattern)
        except FileNotFoundError as error:
            return str(error)
    return None


@cache
def _file_of(package: str, pattern: str) -> Path:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if re.search(pattern, str(file)):
            return Path(str(file.locate()))
    raise FileNotFoundError(f"{package} from PyPI is not installed: pip install {package}")


def nvrtc_version() -> str:
    """Return the version of the compiler."""
    return metadata.version("nvidia-cuda-nvrtc")


@cache
def _nvrtc() -> Any:
    return ctypes.CDLL(str(_file_of("nvidia-cuda-nvrtc", NVRTC)))


def cubin(text: str, arch: int) -> tuple[bytes, str]:
    """Machine code and the compiler's log; raises RuntimeError with the log."""
    nvrtc = _nvrtc()
    # -ftz: CuPy always adds it
    options = [*OPTIONS, f"-arch=sm_{arch}", "-ftz=true", "--ptxas-options=-v"]
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernel.cu", 0, None, None)
    try:
        array = (ctypes.c_char_p * len(options))(*(option.encode() for option in options))
        failed = nvrtc.nvrtcCompileProgram(program, len(options), array)
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        if failed:
            raise RuntimeError(log.value.decode())
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        code = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetCUBIN(program, code)
        return code.raw, log.value.decode()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def listing(code: bytes) -> str:
    """Return the instructions of a cubin, with their bits; it takes longer than the compilation."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        command = [str(_file_of("nvidia-cuda-nvdisasm", NVDISASM)), "-c", "-hex", file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

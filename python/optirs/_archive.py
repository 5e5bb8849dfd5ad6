"""Arrays and a text in one safetensors file: written whole or not at all, every byte checked when it is read.

The text is the entry `optirs` of the file's metadata. It begins with a CRC-32 of the whole file, taken with zeros
where the sum itself stands: damage to one byte, or within four bytes in a row, is seen for certain, other damage but
once in four billion times.
"""

import contextlib
import errno
import os
import secrets
import stat
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from . import _core

Array = NDArray[Any]

CODES = {
    "bool": "BOOL",
    "int8": "I8",
    "uint8": "U8",
    "int16": "I16",
    "uint16": "U16",
    "int32": "I32",
    "uint32": "U32",
    "int64": "I64",
    "uint64": "U64",
    "float16": "F16",
    "bfloat16": "BF16",
    "float32": "F32",
    "float64": "F64",
    "complex64": "C64",
}
"""NumPy's and safetensors' names of the types that both have."""

_NAMES = {code: name for name, code in CODES.items()}
_HEAD = '{"crc32":"'
_NO_SUM = "0" * 8
_CHUNK = 1 << 20
"""Bytes that are read or written, and summed, at a time: they stay in the cache."""


@dataclass
class Entry:
    """An array as the file has it: what the format calls its type, its shape there, and where the elements are."""

    code: str
    shape: tuple[int, ...]
    array: Array


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype of a name in `CODES`; bfloat16 is ml_dtypes'."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def write(path: str, entries: dict[str, Entry], text: str) -> None:
    """Writes arrays of any memory order, and a JSON object in ASCII, without its opening brace.

    Everything goes to a temporary file beside `path`, to the disk, and then takes the place of `path` in one step.

    Raises:
        OSError: If the system fails. At `path` is the old file or the new one even then, and the temporary one is gone.
        ValueError: If something else than a file or a folder is at `path`, or the names are too long for the format.
    """
    order = sorted(entries, key=lambda name: -entries[name].array.itemsize)  # so that each is aligned for its type
    described = [(name, entries[name].code, entries[name].shape, entries[name].array.nbytes) for name in order]
    header = _core.file_header(described, f'{_HEAD}{_NO_SUM}",{text}')
    with _replacing(path) as file:
        crc = zlib.crc32(header)
        file.write(header)
        for name in order:
            for chunk in _chunks(entries[name].array):
                crc = zlib.crc32(chunk, crc)
                file.write(chunk)
        file.seek(header.index(_NO_SUM.encode()))
        file.write(b"%08x" % crc)


def _chunks(x: Array) -> Iterator[memoryview]:
    """The elements of `x` in C order and little-endian, as bytes; those of `x` itself if they lie so."""
    plain = np.asarray(x, x.dtype.newbyteorder("<"), order="C")
    memory = plain.reshape(-1).view(np.uint8).data
    for start in range(0, len(memory), _CHUNK):
        yield memory[start : start + _CHUNK]


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A new file that becomes `path` when the block ends, and vanishes if it raises. A link at `path` stays one."""
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    folder = os.path.basename(path) in ("", os.curdir, os.pardir)  # `realpath` would make a file's name of it
    given, path = path, os.path.realpath(path)
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
    if folder or (mode is not None and stat.S_ISDIR(mode)):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), given)
    if mode is not None and not stat.S_ISREG(mode):
        raise ValueError(f"{given} is not a file that could be replaced")
    temporary = os.path.join(os.path.dirname(path), f".optirs-{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            yield file
            file.flush()
            if mode is not None:
                os.chmod(temporary, stat.S_IMODE(mode))
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.filename == temporary and error.filename2 is None:
            error.filename = given  # nobody has heard of the other
        raise
    _sync_folder(os.path.dirname(path))


def _sync_folder(folder: str) -> None:
    """Puts the new name on the disk, where the system has a way to and lets us."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:  # to write into a folder is one thing, to read it another
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # file systems that have no such thing
            raise
    finally:
        os.close(descriptor)


def read(path: str) -> tuple[str, dict[str, Entry]]:
    """The JSON object and the arrays of a file that `write` wrote.

    Raises:
        OSError: If the system fails.
        ValueError: If a byte of the file is not what was written, or it is another file.
    """
    with open(path, "rb") as file:
        prefix, header = _header(path, file)
        text, described = _described(path, header, os.fstat(file.fileno()).st_size - len(prefix) - len(header))
        written = text[len(_HEAD) :][: len(_NO_SUM)].encode()
        crc = zlib.crc32(prefix + header.replace(written, _NO_SUM.encode(), 1))
        entries = {}
        for name, code, shape in described:
            x = np.empty(shape, dtype_named(_NAMES[code]).newbyteorder("<"))
            for chunk in _chunks(x):
                if file.readinto(chunk) != len(chunk):
                    raise ValueError(f"{path} ends before it should")
                crc = zlib.crc32(chunk, crc)
            entries[name] = Entry(code, shape, x)
    if b"%08x" % crc != written:
        raise ValueError(f"{path} is damaged: these are not the bytes that were written")
    return text, entries


def _header(path: str, file: BinaryIO) -> tuple[bytes, bytes]:
    """The eight bytes of the header's length, and the header."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > os.fstat(file.fileno()).st_size - 8:
        raise ValueError(f"{path} is damaged, or not a safetensors file: it has no header")
    return prefix, file.read(length)


def _described(path: str, header: bytes, size: int) -> tuple[str, list[tuple[str, str, tuple[int, ...]]]]:
    """The text, and name, type and shape of every array, of a header that `size` bytes of arrays follow."""
    try:
        text, expected, entries = _core.read_file_header(header)
    except ValueError as error:
        raise ValueError(f"{path} is damaged, or not a safetensors file: {error}") from None
    if text is None or not text.startswith(_HEAD):
        raise ValueError(f"{path} was not written by optirs.save, or is damaged")
    if size != expected:
        raise ValueError(f"{path} is damaged: {size} bytes of arrays, the header speaks of {expected}")
    for name, code, shape in entries:
        if code not in _NAMES or any(n >= 2**63 for n in shape):
            raise ValueError(f"{path} is damaged: {name} is {code} of shape {shape}")
    return text, entries

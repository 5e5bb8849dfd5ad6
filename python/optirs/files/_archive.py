"""Arrays and a text in one safetensors file: written whole or not at all, every byte checked when it is read.

The text is the entry `optirs` of the file's metadata. It begins with a CRC-32 of the whole file, taken with zeros
where the sum itself stands: damage to one byte, or within four bytes in a row, is seen for certain, other damage but
once in four billion times. Of more arrays than safetensors' header has room for, those of one type are one entry, and
the text is an entry, too, the first one.
"""

import contextlib
import errno
import json
import os
import re
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .. import _core
from .._core import Header, Inventory, Numbers

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

NAMES = {code: name for name, code in CODES.items()}

FORMAT = 2
"""The version of what the text of a file means."""

ENTRIES = 100_000
"""So many arrays have an entry each. More share blocks: the text of a header is bounded by the format."""

_HEAD = '{"crc32":"'
_NO_SUM = "0" * 8
_SUM = re.compile(rb'\{\\"crc32\\":\\"([0-9a-f]{8})')
"""The sum in the text of the header, which is a string in JSON."""

_CHUNK = 1 << 20
"""Bytes that are read at a time: they stay in the cache."""

_ALIGNED = 64
"""Blocks begin at a multiple of so many bytes, as far as the header does."""

Json = dict[str, Any]

NONSENSE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError, struct.error)
"""What reading a file raises that was not written by `write`, though its sum is right."""


@dataclass
class File:
    """What a file holds."""

    about: Json
    """What its text says."""
    kinds: list[Json]
    """What arrays have in common: `code`, the format's name of the type, and `shape`, both as in the file."""
    of: list[int]
    """The kind of each array."""
    arrays: list[Any]
    """In C order, of the type and shape that the file has them in, but complex128, which it lacks, as such."""
    names: list[str]
    """What the entries are called."""


def dtype_named(name: str) -> np.dtype[Any]:
    """The dtype of a name in `CODES`; bfloat16 is ml_dtypes'."""
    if name != "bfloat16":
        return np.dtype(name)
    import ml_dtypes

    dtype: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return dtype


def write(path: str, about: Json, inventory: Inventory) -> None:
    """Writes arrays, and what there is to say about them.

    Everything goes to a temporary file beside `path`, to the disk, and then takes the place of `path` in one step.

    Raises:
        OSError: If the system fails. At `path` is the old file or the new one even then, and the temporary one is gone.
        ValueError: If something else than a file or a folder is at `path`.
        RuntimeError: If another thread changes the shape of an array meanwhile.
    """
    header, index = _heading(about, inventory)
    with _replacing(path) as file:
        crc = 0
        for chunk in _all(header, index, inventory):
            crc = zlib.crc32(chunk, crc)
            file.write(chunk)
        found = _SUM.search(header)
        assert found is not None
        file.seek(found.start(1))
        file.write(b"%08x" % crc)


def _all(header: bytes, index: bytes, inventory: Inventory) -> Iterator[bytes]:
    """All bytes of a file, each array's copied once: what is summed is what is written."""
    yield header
    yield index
    while chunk := inventory.chunk():
        yield chunk


def _heading(about: Json, inventory: Inventory) -> tuple[bytes, bytes]:
    """The header of a file, and the text, if it is an entry."""
    header = None
    if len(inventory) <= ENTRIES:
        header = _core.file_header(inventory, f'{_HEAD}{_NO_SUM}",{_json(about)[1:]}')
    if header is not None:
        return header, b""
    index = f'{_json(about)[:-1]},"names":{inventory.names()}}}'.encode()
    index += b" " * (-len(index) % _ALIGNED)
    short = _json({"format": about["format"]})
    header = _core.file_header(inventory, f'{_HEAD}{_NO_SUM}",{short[1:]}', len(index))
    assert header is not None
    return header, index


def _json(value: Any) -> str:
    if isinstance(value, Numbers):
        return value.json()
    if type(value) is dict:
        return f"{{{','.join(f'{json.dumps(key)}:{_json(child)}' for key, child in value.items())}}}"
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def check_replaceable(path: str) -> None:
    """Raises if there is no file at `path`, nor could be one."""
    _target(path)


def _target(path: str) -> tuple[str, int | None]:
    """The file behind `path`, where a link leads, and its permissions if it is there."""
    if not path:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    folder = os.path.basename(path) in ("", os.curdir, os.pardir)  # `realpath` would make a file's name of it
    real = os.path.realpath(path)
    mode = None
    with contextlib.suppress(FileNotFoundError):
        mode = os.stat(real).st_mode
    if folder or (mode is not None and stat.S_ISDIR(mode)):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if mode is not None and not stat.S_ISREG(mode):
        raise ValueError(f"{path} is not a file that could be replaced")
    return real, mode


@contextlib.contextmanager
def _replacing(path: str) -> Iterator[BinaryIO]:
    """A new file that becomes `path` when the block ends, and vanishes if it raises. A link at `path` stays one.

    A file that is there keeps its permissions, and until the new one has them it is its owner's alone.
    """
    given, (path, mode) = path, _target(path)
    temporary = os.path.join(os.path.dirname(path), f".optirs-{secrets.token_hex(8)}.tmp")

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags, 0o666 if mode is None else 0o600)

    try:
        with open(temporary, "xb", opener=opener) as file:
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


def read(path: str) -> File:
    """What a file holds that `write` wrote.

    Raises:
        OSError: If the system fails.
        ValueError: If a byte of the file is not what was written, or it is another file, or none.
    """
    with _opened(path) as file:
        try:
            return _read(file)
        except NONSENSE as error:
            if not _intact(file):
                raise ValueError(f"{path} is damaged, or was not written by optirs.save: {error}") from error
            raise nonsense(path, error) from error


def nonsense(path: str, error: Exception) -> ValueError:
    """The error of a file whose bytes are those that were written, but by whom?"""
    return ValueError(f"{path} cannot be read: {error if isinstance(error, ValueError) else repr(error)}")


def _opened(path: str) -> BinaryIO:
    """The file, open to be read; a pipe or a device, which one might wait for, is refused."""

    def opener(name: str, flags: int) -> int:
        _check_file(path, os.stat(name).st_mode)
        return os.open(name, flags | getattr(os, "O_NONBLOCK", 0))  # it may become a pipe just now

    file = open(path, "rb", opener=opener)  # noqa: SIM115 - whoever asked closes it
    try:
        _check_file(path, os.fstat(file.fileno()).st_mode)
    except ValueError:
        file.close()
        raise
    return file


def _check_file(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # of folders `open` has an error of its own
        raise ValueError(f"{path} is not a file that could be read")


def _read(file: BinaryIO) -> File:
    prefix, text = _header(file)
    header = _core.Header(text)
    found = _SUM.search(text)
    if header.about is None or not header.about.startswith(_HEAD) or found is None:
        raise ValueError("there is no sum in the header")
    size = os.fstat(file.fileno()).st_size - len(prefix) - len(text)
    if size != header.bytes:
        raise ValueError(f"{size} bytes follow the header, which speaks of {header.bytes}")
    crc = _summed(prefix, text, found)
    about = json.loads(header.about)
    if header.index is not None:
        index = file.read(header.index)
        crc = zlib.crc32(index, crc)
        about |= json.loads(index)
    kinds, of, names = _described(about, header)
    inventory = Inventory(kinds, of, about["format"] == 1)
    header.check(inventory)
    arrays = inventory.allocate([_raw(kind) for kind in kinds])
    while chunk := file.read(_CHUNK):
        crc = zlib.crc32(chunk, crc)
        inventory.fill(chunk)
    if b"%08x" % crc != found[1]:
        raise ValueError("these are not the bytes that were written")
    return File(about, kinds, of, arrays, names)


def _header(file: BinaryIO) -> tuple[bytes, bytes]:
    """The eight bytes of the header's length, and the header."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > os.fstat(file.fileno()).st_size - 8:
        raise ValueError("it is not a safetensors file: it has no header")
    return prefix, file.read(length)


def _summed(prefix: bytes, header: bytes, found: re.Match[bytes]) -> int:
    """The CRC-32 of prefix and header, with zeros where the sum stands."""
    start, stop = found.span(1)
    return zlib.crc32(header[stop:], zlib.crc32(_NO_SUM.encode(), zlib.crc32(header[:start], zlib.crc32(prefix))))


def _intact(file: BinaryIO) -> bool:
    """Whether the bytes are those that were written."""
    file.seek(0)
    try:
        prefix, header = _header(file)
    except ValueError:
        return False
    if (found := _SUM.search(header)) is None:
        return False
    crc = _summed(prefix, header, found)
    while chunk := file.read(_CHUNK):
        crc = zlib.crc32(chunk, crc)
    return b"%08x" % crc == found[1]


def _described(about: Json, header: Header) -> tuple[list[Json], list[int], list[str]]:
    """The kinds of arrays, the kind of each, and the names of the entries."""
    if about["format"] == 1:  # the text did not say so much
        entries = header.entries()
        kinds: list[Json] = [{"code": code, "shape": list(shape)} for _, code, shape in entries]
        return kinds, list(range(len(entries))), [name for name, _, _ in entries]
    if about["format"] != FORMAT:
        raise ValueError(f"it has format {about['format']}; this version of optirs reads up to {FORMAT}")
    return about["arrays"]["kinds"], about["arrays"]["of"], []


def _raw(kind: Json) -> tuple[np.dtype[Any], list[int]]:
    """The type and shape in which an array is read."""
    dtype, shape = dtype_named(NAMES[kind["code"]]), kind["shape"]
    if kind.get("dtype") == "complex128":
        dtype, shape = np.dtype(np.complex128), shape[:-1]
    return dtype.newbyteorder("<"), shape

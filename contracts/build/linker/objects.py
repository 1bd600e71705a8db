"""Reading relocatable ELF objects for BPF: sections, symbols and the references between them."""

import struct
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Final

from contracts.build.errors import LinkError

_SECTION_HEADER: Final = struct.Struct("<IIQQQQIIQQ")
_SYMBOL: Final = struct.Struct("<IBBHQQ")
_RELOCATION: Final = struct.Struct("<QQ")
_MACHINE_BPF: Final = 247
_TYPE_RELOCATABLE: Final = 1
_FLAG_WRITE, _FLAG_EXECUTE = 1, 4
_UNDEFINED: Final = 0
# Section indexes from here on mean something else than a section (absolute, common).
_RESERVED_INDEXES: Final = 0xFF00


class SectionType(IntEnum):
    SYMBOLS = 2
    RELOCATIONS_WITH_ADDEND = 4
    NO_BITS = 8
    RELOCATIONS = 9


@dataclass(frozen=True, slots=True)
class Reference:
    """A place in a section that means a symbol: `offset` bytes in, of relocation type `kind`."""

    offset: int
    kind: int
    symbol: "Symbol"


@dataclass(slots=True, eq=False)
class Section:
    """A piece of code or data. `address` is chosen when the program is laid out."""

    name: str
    is_code: bool
    is_mutable: bool
    alignment: int
    data: bytearray
    references: list[Reference] = field(default_factory=list)
    address: int = 0


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name for a place in a section, or without a section for something defined elsewhere."""

    name: str
    is_global: bool
    section: Section | None
    offset: int


@dataclass(frozen=True, slots=True)
class ObjectFile:
    sections: list[Section]
    symbols: list[Symbol]


@dataclass(frozen=True, slots=True)
class _Header:
    name: int
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int


def read_object(path: Path) -> ObjectFile:
    """Parse one object. Raises `LinkError` for anything but a little-endian BPF relocatable ELF."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<HH", data, 16) != (
        _TYPE_RELOCATABLE,
        _MACHINE_BPF,
    ):
        raise LinkError(f"{path}: not a little-endian BPF object")
    (table,) = struct.unpack_from("<Q", data, 40)
    count, names_index = struct.unpack_from("<HH", data, 60)
    headers = []
    for index in range(count):
        name, kind, flags, _, offset, size, link, info, alignment, _ = _SECTION_HEADER.unpack_from(
            data, table + index * _SECTION_HEADER.size
        )
        headers.append(_Header(name, kind, flags, offset, size, link, info, alignment))

    sections = [
        _read_section(data, header, _text(data, headers[names_index], header.name)) for header in headers
    ]
    symbols: list[Symbol] = []
    for header in headers:
        if header.type == SectionType.SYMBOLS:
            symbols = _read_symbols(data, header, headers[header.link], sections)
    for header in headers:
        if header.type == SectionType.RELOCATIONS_WITH_ADDEND:
            raise LinkError(f"{path}: relocations with addends are not what LLVM emits for BPF")
        if header.type == SectionType.RELOCATIONS:
            sections[header.info].references = _read_references(data, header, symbols)
    return ObjectFile(sections, symbols)


def _text(data: bytes, table: _Header, offset: int) -> str:
    start = table.offset + offset
    return data[start : data.index(b"\0", start)].decode()


def _read_section(data: bytes, header: _Header, name: str) -> Section:
    has_bits = header.type != SectionType.NO_BITS
    # Constant tables of pointers count as writable until a dynamic linker has filled them in; here nothing moves, so
    # they are constant from the start.
    is_mutable = not has_bits or (bool(header.flags & _FLAG_WRITE) and not name.startswith(".data.rel.ro"))
    content = data[header.offset : header.offset + header.size] if has_bits else bytes(header.size)
    return Section(
        name, bool(header.flags & _FLAG_EXECUTE), is_mutable, max(header.alignment, 1), bytearray(content)
    )


def _read_symbols(data: bytes, header: _Header, names: _Header, sections: list[Section]) -> list[Symbol]:
    symbols = []
    for start in range(header.offset, header.offset + header.size, _SYMBOL.size):
        name, info, _, index, value, _ = _SYMBOL.unpack_from(data, start)
        is_placed = index != _UNDEFINED and index < _RESERVED_INDEXES
        section = sections[index] if is_placed else None
        symbols.append(Symbol(_text(data, names, name), info >> 4 != 0, section, value))
    return symbols


def _read_references(data: bytes, header: _Header, symbols: list[Symbol]) -> list[Reference]:
    references = []
    for start in range(header.offset, header.offset + header.size, _RELOCATION.size):
        offset, info = _RELOCATION.unpack_from(data, start)
        references.append(Reference(offset, info & 0xFFFFFFFF, symbols[info >> 32]))
    return references

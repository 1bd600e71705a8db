"""Laying out an SBPF v3 program.

Read-only data lies at virtual address 0, code at 2^32 (one instruction is 8 bytes, `lddw` takes two). Only sections
that the entry point reaches are kept. References become plain numbers: the loader of v3 relocates nothing.
"""

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import Final

from contracts.build.errors import LinkError
from contracts.build.linker.objects import ObjectFile, Reference, Section, Symbol
from contracts.build.linker.syscalls import ALIASES, NAMES, syscall_number

_CODE_BASE: Final = 1 << 32
# Nothing is placed at address 0: a Rust reference must not be null.
_DATA_START: Final = 16
_INSTRUCTION_SIZE: Final = 8

_OP_CALL: Final = 0x85
_OP_LOAD_64: Final = 0x18
# Additions, subtractions and multiplications of 32 bits: SBPF extends their sign where LLVM expects zeros.
_FORBIDDEN_OPS: Final = frozenset({0x04, 0x0C, 0x14, 0x1C, 0x24, 0x2C})
# Source-register value of a call that means "relative to here".
_CALL_RELATIVE: Final = 0x10

_ELF_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_SBPF_V3: Final = 3


class Relocation(IntEnum):
    """The kinds LLVM emits for BPF (llvm/BinaryFormat/ELFRelocs/BPF.def)."""

    LOAD_64 = 1
    DATA_64 = 2
    CALL = 10


def link(objects: Sequence[ObjectFile], entry_point: str) -> bytes:
    """The program's file. Raises `LinkError` for mutable globals, unknown functions and unsupported code."""
    definitions = _definitions(objects)
    if entry_point not in definitions:
        raise LinkError(f"no function is called {entry_point}")
    entry = definitions[entry_point]
    sections = _reachable(entry, definitions)
    code = [section for section in sections if section.is_code]
    data = [section for section in sections if not section.is_code]
    code_end = _place(code, _CODE_BASE)
    data_end = _place(data, _DATA_START)
    for section in sections:
        for reference in section.references:
            _resolve(section, reference, definitions)
    for section in code:
        _check_instructions(section)
    return _write(
        entry=_address(entry),
        code=_blob(code, _CODE_BASE, code_end),
        data=_blob(data, 0, data_end) if data else b"",
    )


def _definitions(objects: Iterable[ObjectFile]) -> dict[str, Symbol]:
    """Global symbols by name; a weak one may be defined again, the first wins."""
    definitions: dict[str, Symbol] = {}
    for item in objects:
        for symbol in item.symbols:
            if symbol.is_global and symbol.section is not None:
                definitions.setdefault(symbol.name, symbol)
    return definitions


def _reachable(entry: Symbol, definitions: dict[str, Symbol]) -> list[Section]:
    """Sections the entry point needs, in the order they are found, which depends on nothing but the objects."""
    found: list[Section] = []
    waiting = [entry]
    while waiting:
        section = waiting.pop().section
        if section is None or section in found:
            continue
        if section.is_mutable:
            raise LinkError(f"{section.name}: on-chain programs have no mutable globals")
        found.append(section)
        waiting += [_definition(reference.symbol, definitions) for reference in section.references]
    return found


def _definition(symbol: Symbol, definitions: dict[str, Symbol]) -> Symbol:
    """Where a symbol is defined: in its own object, in another one, or nowhere (then it is returned as it is)."""
    return symbol if symbol.section is not None else definitions.get(symbol.name, symbol)


def _place(sections: Iterable[Section], start: int) -> int:
    """Give every section its address, from `start` on. Returns the end, rounded up to a whole instruction."""
    address = start
    for section in sections:
        alignment = max(section.alignment, _INSTRUCTION_SIZE)
        section.address = -(-address // alignment) * alignment
        address = section.address + len(section.data)
    return -(-address // _INSTRUCTION_SIZE) * _INSTRUCTION_SIZE


def _address(symbol: Symbol) -> int:
    if symbol.section is None:
        raise LinkError(f"{symbol.name} is not defined")
    return symbol.section.address + symbol.offset


def _resolve(section: Section, reference: Reference, definitions: dict[str, Symbol]) -> None:
    """Write what the reference means into the section."""
    symbol = _definition(reference.symbol, definitions)
    data, at = section.data, reference.offset
    if reference.kind == Relocation.CALL and data[at] == _OP_CALL:
        (addend,) = struct.unpack_from("<i", data, at + 4)
        if symbol.section is None:
            data[at + 1] &= 0x0F
            struct.pack_into("<I", data, at + 4, _syscall(symbol.name, section, at))
        else:
            # LLVM's addend counts instructions from the symbol, minus one, as the call does from the next instruction.
            target = _address(symbol) + (addend + 1) * _INSTRUCTION_SIZE
            distance = (target - (section.address + at)) // _INSTRUCTION_SIZE - 1
            data[at + 1] = data[at + 1] & 0x0F | _CALL_RELATIVE
            struct.pack_into("<i", data, at + 4, distance)
    elif reference.kind == Relocation.LOAD_64 and data[at] == _OP_LOAD_64:
        low, high = struct.unpack_from("<I", data, at + 4)[0], struct.unpack_from("<I", data, at + 12)[0]
        value = _address(symbol) + (low | high << 32)
        data[at + 1] &= 0x0F
        struct.pack_into("<I", data, at + 4, value & 0xFFFFFFFF)
        struct.pack_into("<I", data, at + 12, value >> 32)
    elif reference.kind == Relocation.DATA_64:
        (addend,) = struct.unpack_from("<Q", data, at)
        struct.pack_into("<Q", data, at, _address(symbol) + addend)
    else:
        raise LinkError(f"{section.name}+{at:#x}: relocation {reference.kind} is not supported")


def _syscall(name: str, section: Section, at: int) -> int:
    name = ALIASES.get(name, name)
    if name not in NAMES:
        raise LinkError(f"{section.name}+{at:#x}: {name} is neither defined nor a syscall of the runtime")
    return syscall_number(name)


def _check_instructions(section: Section) -> None:
    at = 0
    while at < len(section.data):
        op = section.data[at]
        if op in _FORBIDDEN_OPS:
            raise LinkError(f"{section.name}+{at:#x}: 32-bit arithmetic {op:#x}; compile with cpu v2")
        at += 2 * _INSTRUCTION_SIZE if op == _OP_LOAD_64 else _INSTRUCTION_SIZE


def _blob(sections: Iterable[Section], base: int, end: int) -> bytes:
    blob = bytearray(end - base)
    for section in sections:
        start = section.address - base
        blob[start : start + len(section.data)] = section.data
    return bytes(blob)


def _write(*, entry: int, code: bytes, data: bytes) -> bytes:
    """ELF header, one program header per segment, data, code. No section headers."""
    segments = [(4, 0, data), (1, _CODE_BASE, code)] if data else [(1, _CODE_BASE, code)]
    offset = _ELF_HEADER.size + _PROGRAM_HEADER.size * len(segments)
    headers, contents = b"", b""
    for flags, address, content in segments:
        place = offset + len(contents)
        size = len(content)
        headers += _PROGRAM_HEADER.pack(1, flags, place, address, address, size, size, _INSTRUCTION_SIZE)
        contents += content
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = _ELF_HEADER.pack(
        identity,
        3,
        247,
        1,
        entry,
        _ELF_HEADER.size,
        0,
        _SBPF_V3,
        64,
        _PROGRAM_HEADER.size,
        len(segments),
        64,
        0,
        0,
    )
    return header + headers + contents

"""Parts of the program's build that can be judged without a compiler: the linker, the patch of core."""

import struct
from pathlib import Path

import pytest

from contracts.build.errors import BuildError, LinkError
from contracts.build.linker.image import link
from contracts.build.linker.objects import ObjectFile, Reference, Section, Symbol, read_object
from contracts.build.linker.syscalls import NAMES, syscall_number
from contracts.build.patch_core import patch

CALL, LOAD_64 = 10, 1
EXIT = bytes([0x9D, 0, 0, 0, 0, 0, 0, 0])


def code(name: str, data: bytes) -> Section:
    return Section(name, is_code=True, is_mutable=False, alignment=8, data=bytearray(data))


def function(section: Section, name: str, offset: int = 0) -> Symbol:
    return Symbol(name, is_global=True, section=section, offset=offset)


def undefined(name: str) -> Symbol:
    return Symbol(name, is_global=True, section=None, offset=0)


def call(addend: int = -1) -> bytes:
    return struct.pack("<BBhi", 0x85, 0x10, 0, addend)


def segments(image: bytes) -> list[tuple[int, int, bytes]]:
    """(flags, address, content) of every segment."""
    (table,), (count,) = struct.unpack_from("<Q", image, 32), struct.unpack_from("<H", image, 56)
    found = []
    for index in range(count):
        _, flags, offset, address, _, size, _, _ = struct.unpack_from("<IIQQQQQQ", image, table + 56 * index)
        found.append((flags, address, image[offset : offset + size]))
    return found


def test_syscalls_are_named_by_the_murmur_hash_of_their_name() -> None:
    """The numbers that Solana's documentation of SBPF v3 lists."""
    assert syscall_number("abort") == 0xB6FC1A11
    assert syscall_number("sol_log_") == 0x207559BD
    assert syscall_number("sol_sha256") == 0x11F49D86
    assert syscall_number("sol_invoke_signed_c") == 0xA22B9C85
    assert len({syscall_number(name) for name in NAMES}) == len(NAMES)


def test_a_call_to_a_syscall_carries_its_number() -> None:
    section = code(".text.entrypoint", call() + EXIT)
    section.references = [Reference(0, CALL, undefined("sol_log_"))]
    image = link([ObjectFile([section], [function(section, "entrypoint")])], "entrypoint")
    ((flags, address, content),) = segments(image)
    assert (flags, address) == (1, 1 << 32)
    assert content == struct.pack("<BBhI", 0x85, 0, 0, syscall_number("sol_log_")) + EXIT


def test_a_call_between_functions_is_a_distance_in_instructions() -> None:
    first, second = code(".text.entrypoint", call() + EXIT), code(".text.other", EXIT)
    other = function(second, "other")
    first.references = [Reference(0, CALL, undefined("other"))]
    image = link([ObjectFile([first, second], [function(first, "entrypoint"), other])], "entrypoint")
    ((_, _, content),) = segments(image)
    assert struct.unpack_from("<i", content, 4) == (1,)


def test_constants_are_addressed_below_the_code_and_never_at_zero() -> None:
    text = code(".text.entrypoint", struct.pack("<BBhI", 0x18, 1, 0, 0) + bytes(8) + EXIT)
    constant = Section(".rodata", is_code=False, is_mutable=False, alignment=1, data=bytearray(b"hello"))
    text.references = [Reference(0, LOAD_64, function(constant, "text"))]
    image = link([ObjectFile([text, constant], [function(text, "entrypoint")])], "entrypoint")
    (_, data_address, data), (_, _, content) = segments(image)
    assert data_address == 0
    (low,) = struct.unpack_from("<I", content, 4)
    assert low == 16
    assert data[low : low + 5] == b"hello"


def test_what_the_entry_point_does_not_reach_is_left_out() -> None:
    text, unused = code(".text.entrypoint", EXIT), code(".text.unused", EXIT * 100)
    objects = [ObjectFile([text, unused], [function(text, "entrypoint"), function(unused, "unused")])]
    assert [len(content) for _, _, content in segments(link(objects, "entrypoint"))] == [8]


def test_mutable_globals_are_refused() -> None:
    text = code(".text.entrypoint", struct.pack("<BBhI", 0x18, 1, 0, 0) + bytes(8) + EXIT)
    counter = Section(".data", is_code=False, is_mutable=True, alignment=8, data=bytearray(8))
    text.references = [Reference(0, LOAD_64, function(counter, "COUNTER"))]
    with pytest.raises(LinkError, match="no mutable globals"):
        link([ObjectFile([text, counter], [function(text, "entrypoint")])], "entrypoint")


def test_an_unknown_function_is_refused_at_link_time() -> None:
    text = code(".text.entrypoint", call() + EXIT)
    text.references = [Reference(0, CALL, undefined("__multi3"))]
    with pytest.raises(LinkError, match="__multi3 is neither defined nor a syscall"):
        link([ObjectFile([text], [function(text, "entrypoint")])], "entrypoint")


def test_32_bit_additions_are_refused() -> None:
    text = code(".text.entrypoint", struct.pack("<BBhi", 0x04, 0, 0, 1) + EXIT)
    with pytest.raises(LinkError, match="32-bit arithmetic"):
        link([ObjectFile([text], [function(text, "entrypoint")])], "entrypoint")


def test_an_object_for_another_machine_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 1, 62) + bytes(64))
    with pytest.raises(LinkError, match="not a little-endian BPF object"):
        read_object(path)


def test_a_core_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ptr").mkdir()
    (tmp_path / "ptr" / "mod.rs").write_text("pub const unsafe fn copy<T>() {}")
    with pytest.raises(BuildError, match="not the one patch_core was written for"):
        patch(tmp_path)

"""The functions that the Solana runtime offers to programs, and their numbers in SBPF v3.

A call to a syscall carries the Murmur3 hash of its name. The loader accepts unknown hashes and the program fails only
when it gets there, so names are checked here.
"""

from typing import Final

NAMES: Final = frozenset(
    {
        "abort",
        "sol_panic_",
        "sol_log_",
        "sol_log_64_",
        "sol_log_pubkey",
        "sol_log_compute_units_",
        "sol_log_data",
        "sol_create_program_address",
        "sol_try_find_program_address",
        "sol_sha256",
        "sol_keccak256",
        "sol_get_clock_sysvar",
        "sol_get_rent_sysvar",
        "sol_get_sysvar",
        "sol_memcpy_",
        "sol_memmove_",
        "sol_memcmp_",
        "sol_memset_",
        "sol_invoke_signed_c",
        "sol_set_return_data",
        "sol_get_return_data",
        "sol_get_stack_height",
        "sol_remaining_compute_units",
    }
)

# What LLVM calls where Rust says "unreachable".
ALIASES: Final = {"__bpf_trap": "abort"}

_MASK: Final = 0xFFFFFFFF


def syscall_number(name: str) -> int:
    """Murmur3 (32 bits, seed 0) of the name."""
    data = name.encode()
    value = 0
    whole = len(data) & ~3
    for start in range(0, whole, 4):
        value ^= _scramble(int.from_bytes(data[start : start + 4], "little"))
        value = (_rotate(value, 13) * 5 + 0xE6546B64) & _MASK
    if len(data) != whole:
        value ^= _scramble(int.from_bytes(data[whole:], "little"))
    value ^= len(data)
    value = (value ^ value >> 16) * 0x85EBCA6B & _MASK
    value = (value ^ value >> 13) * 0xC2B2AE35 & _MASK
    return value ^ value >> 16


def _scramble(block: int) -> int:
    return _rotate(block * 0xCC9E2D51 & _MASK, 15) * 0x1B873593 & _MASK


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> 32 - bits) & _MASK

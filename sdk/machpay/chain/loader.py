"""Solana's upgradeable loader: builders, decoders, and putting a program's bytes on a cluster.

A program's bytes are written to a buffer account, a kilobyte a transaction, and one transaction then makes it the
program. The buffer's key follows from authority and bytes, so a run that broke off is found and finished by the next.
"""

import asyncio
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.system_program import ID as SYSTEM_PROGRAM_ID
from solders.system_program import CreateAccountParams, create_account
from solders.sysvar import CLOCK, RENT

from machpay.chain.client import ChainClient
from machpay.chain.errors import DecodeError
from machpay.chain.instructions import UPGRADEABLE_LOADER_ID, program_data_address

BUFFER_HEADER: Final = 37
PROGRAM_LENGTH: Final = 36
PROGRAM_DATA_HEADER: Final = 45
# One transaction of 1,232 bytes with one signature holds 1,012 bytes beside everything else.
WRITE_BYTES: Final = 1_000
LAMPORTS_PER_SIGNATURE: Final = 5_000
_CONCURRENT_WRITES: Final = 16
_ELF: Final = b"\x7fELF"

_INITIALIZE_BUFFER, _WRITE, _DEPLOY, _UPGRADE = 0, 1, 2, 3
_PROGRAM_DATA_KIND: Final = 3


@dataclass(frozen=True, slots=True)
class ProgramData:
    """The account behind a program: its bytecode (padded with zeros), who may replace it, and since which slot."""

    slot: int
    upgrade_authority: Pubkey | None
    bytecode: bytes

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises `DecodeError` if `data` is no ProgramData account."""
        if len(data) < PROGRAM_DATA_HEADER or struct.unpack_from("<I", data)[0] != _PROGRAM_DATA_KIND:
            raise DecodeError("not a ProgramData account")
        slot, has_authority = struct.unpack_from("<QB", data, 4)
        authority = Pubkey(data[13:PROGRAM_DATA_HEADER]) if has_authority else None
        return cls(slot, authority, data[PROGRAM_DATA_HEADER:])

    def runs(self, elf: bytes) -> bool:
        """The program's bytecode is `elf`."""
        return self.bytecode[: len(elf)] == elf and not any(self.bytecode[len(elf) :])


@dataclass(frozen=True, slots=True)
class DeploymentPlan:
    """What `deploy` is going to do: `action` is "none", "deploy" or "upgrade". `writes` is how many transactions write
    bytes; `lamports` what leaves the payer for good, `held` what an upgrade's buffer needs beside that and gives back:
    a deployment pays its rent from the buffer's."""

    action: str
    writes: int = 0
    lamports: int = 0
    held: int = 0


async def program_data(chain: ChainClient, program_id: Pubkey) -> ProgramData | None:
    """The program's data account; None if it was never deployed with this loader."""
    account = await chain.account(program_data_address(program_id))
    if account is None or account.owner != UPGRADEABLE_LOADER_ID:
        return None
    return ProgramData.decode(bytes(account.data))


def buffer_keypair(authority: Keypair, program_id: Pubkey, elf: bytes) -> Keypair:
    """The key of the buffer for these bytes: secret, and the same in every run."""
    seed = hashlib.sha256(b"machpay:buffer" + authority.secret() + bytes(program_id) + elf).digest()
    return Keypair.from_seed(seed)


async def plan(
    chain: ChainClient, *, program_id: Pubkey, authority: Keypair, elf: bytes, max_length: int
) -> DeploymentPlan:
    """What has to be done, and what it costs. Raises `ValueError` if `authority` may not, the bytes do not fit, or they
    are no program: everybody can read what is written to a buffer, and a key's file is given by mistake easily."""
    if not elf.startswith(_ELF):
        raise ValueError("the file is no compiled program")
    deployed = await program_data(chain, program_id)
    missing = await _missing(chain, buffer_keypair(authority, program_id, elf).pubkey(), elf)
    fees = LAMPORTS_PER_SIGNATURE * (len(missing) + 2 + 2)
    if deployed is None:
        if max_length < len(elf):
            raise ValueError(f"the program has {len(elf)} bytes, the most given is {max_length}")
        rent = await chain.rent(PROGRAM_LENGTH) + await chain.rent(PROGRAM_DATA_HEADER + max_length)
        return DeploymentPlan("deploy", len(missing), rent + fees)
    if deployed.runs(elf):
        return DeploymentPlan("none")
    if deployed.upgrade_authority != authority.pubkey():
        raise ValueError(f"only {deployed.upgrade_authority or 'nobody'} may upgrade {program_id}")
    if len(elf) > len(deployed.bytecode):
        raise ValueError(f"the program has {len(elf)} bytes, its account holds {len(deployed.bytecode)}")
    return DeploymentPlan("upgrade", len(missing), fees, await chain.rent(BUFFER_HEADER + len(elf)))


async def deploy(
    chain: ChainClient,
    *,
    program: Keypair,
    authority: Keypair,
    elf: bytes,
    max_length: int,
    report: Callable[[str], None] = lambda _line: None,
) -> str | None:
    """Put `elf` on the cluster under `program`'s address, paid and ruled by `authority`. Returns the signature of the
    last transaction, None if these bytes run there already. May be repeated after any failure. Raises `ValueError` as
    `plan`, `ChainError`."""
    program_id, payer = program.pubkey(), authority.pubkey()
    wanted = await plan(chain, program_id=program_id, authority=authority, elf=elf, max_length=max_length)
    if wanted.action == "none":
        return None
    buffer = buffer_keypair(authority, program_id, elf)
    if not await chain.exists(buffer.pubkey()):
        steps = [
            _create(
                payer, buffer.pubkey(), await chain.rent(BUFFER_HEADER + len(elf)), BUFFER_HEADER + len(elf)
            ),
            _initialize_buffer(buffer.pubkey(), payer),
        ]
        await chain.send_and_confirm(steps, authority, [buffer])
    report(f"buffer {buffer.pubkey()}: {wanted.writes} writes")
    await _write(chain, buffer.pubkey(), authority, elf, report)
    if wanted.action == "upgrade":
        step = _upgrade(program_id, buffer.pubkey(), payer)
        return await chain.send_and_confirm([step], authority, commitment="finalized")
    steps = [
        _create(payer, program_id, await chain.rent(PROGRAM_LENGTH), PROGRAM_LENGTH),
        _deploy(program_id, buffer.pubkey(), payer, max_length),
    ]
    return await chain.send_and_confirm(steps, authority, [program], "finalized")


async def _missing(chain: ChainClient, buffer: Pubkey, elf: bytes) -> list[int]:
    """Offsets of the pieces that the buffer does not hold yet."""
    account = await chain.account(buffer)
    held = b"" if account is None else bytes(account.data)[BUFFER_HEADER:]
    return [
        start
        for start in range(0, len(elf), WRITE_BYTES)
        if held[start : start + WRITE_BYTES] != elf[start : start + WRITE_BYTES]
    ]


async def _write(
    chain: ChainClient, buffer: Pubkey, authority: Keypair, elf: bytes, report: Callable[[str], None]
) -> None:
    """Write what is missing, and read back until nothing is."""
    slots = asyncio.Semaphore(_CONCURRENT_WRITES)

    async def write(start: int) -> None:
        async with slots:
            step = _write_step(buffer, authority.pubkey(), start, elf[start : start + WRITE_BYTES])
            await chain.send_and_confirm([step], authority)

    while missing := await _missing(chain, buffer, elf):
        report(f"writing {len(missing)} pieces of {WRITE_BYTES} bytes")
        await asyncio.gather(*(write(start) for start in missing))


def _create(payer: Pubkey, address: Pubkey, lamports: int, length: int) -> Instruction:
    return create_account(
        CreateAccountParams(
            from_pubkey=payer,
            to_pubkey=address,
            lamports=lamports,
            space=length,
            owner=UPGRADEABLE_LOADER_ID,
        )
    )


def _initialize_buffer(buffer: Pubkey, authority: Pubkey) -> Instruction:
    accounts = [AccountMeta(buffer, False, True), AccountMeta(authority, False, False)]
    return Instruction(UPGRADEABLE_LOADER_ID, struct.pack("<I", _INITIALIZE_BUFFER), accounts)


def _write_step(buffer: Pubkey, authority: Pubkey, offset: int, piece: bytes) -> Instruction:
    accounts = [AccountMeta(buffer, False, True), AccountMeta(authority, True, False)]
    data = struct.pack("<IIQ", _WRITE, offset, len(piece)) + piece
    return Instruction(UPGRADEABLE_LOADER_ID, data, accounts)


def _deploy(program_id: Pubkey, buffer: Pubkey, authority: Pubkey, max_length: int) -> Instruction:
    accounts = [
        AccountMeta(authority, True, True),
        AccountMeta(program_data_address(program_id), False, True),
        AccountMeta(program_id, False, True),
        AccountMeta(buffer, False, True),
        AccountMeta(RENT, False, False),
        AccountMeta(CLOCK, False, False),
        AccountMeta(SYSTEM_PROGRAM_ID, False, False),
        AccountMeta(authority, True, False),
    ]
    return Instruction(UPGRADEABLE_LOADER_ID, struct.pack("<IQ", _DEPLOY, max_length), accounts)


def _upgrade(program_id: Pubkey, buffer: Pubkey, authority: Pubkey) -> Instruction:
    accounts = [
        AccountMeta(program_data_address(program_id), False, True),
        AccountMeta(program_id, False, True),
        AccountMeta(buffer, False, True),
        AccountMeta(authority, False, True),
        AccountMeta(RENT, False, False),
        AccountMeta(CLOCK, False, False),
        AccountMeta(authority, True, False),
    ]
    return Instruction(UPGRADEABLE_LOADER_ID, struct.pack("<I", _UPGRADE), accounts)

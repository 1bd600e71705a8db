"""Who is who: identity `i` of a vendor, the process that has it, and which identity a newcomer is offered.

    identity 0 = the key in gateway.keypair_file
    identity i = Ed25519(sha256("machpay:gateway-worker:v1" || seed of identity 0 || i as u32 LE)), for i > 0

A gateway that ran alone is identity 0 and keeps its channels and its log when others join it. The identities of all
machines are numbered through; each machine has the key file and knows from it every other identity.
"""

import struct
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from machpay.protocol.keys import SigningKey
from machpay_gateway.errors import ConfigError
from machpay_gateway.settings import Settings

IDENTITY_TAG: Final = b"machpay:gateway-worker:v1"
SECRET_TAG: Final = b"machpay:gateway-siblings:v1"


def identity(key: SigningKey, index: int) -> SigningKey:
    """The key of identity `index`; `key` is the one in `gateway.keypair_file`."""
    return key if index == 0 else key.derive(IDENTITY_TAG, struct.pack("<I", index))


def identities(settings: Settings) -> list[SigningKey]:
    """Every identity of the vendor's gateways, on this machine and the others, in order: what is registered
    together. Raises `ConfigError` if the numbers leave a gap or name one twice."""
    return [identity(settings.key, index) for index in range(len(_addresses(settings)))]


def shared_secret(key: SigningKey) -> bytes:
    """32 bytes that only holders of the key file have: signatures are deterministic."""
    return sha256(key.derive(SECRET_TAG).sign(SECRET_TAG)).digest()


def folder(settings: Settings, index: int) -> Path:
    """Where identity `index` keeps its log on this machine."""
    return settings.data_dir if index == 0 else settings.data_dir / f"worker-{index}"


def worker_settings(settings: Settings, index: int) -> Settings:
    """The configuration of the process that has identity `index`."""
    return replace(settings, key=identity(settings.key, index), data_dir=folder(settings, index))


def local_indexes(settings: Settings) -> range:
    """The identities that this machine's processes have."""
    return range(settings.workers.first, settings.workers.first + settings.workers.count)


def left_behind(settings: Settings) -> list[int]:
    """Identities with a log here that this machine no longer has."""
    found = []
    for path in settings.data_dir.glob("worker-*/log"):
        number = path.parent.name.removeprefix("worker-")
        if number.isdigit() and int(number) not in local_indexes(settings):
            found.append(int(number))
    return sorted(found)


def with_count(settings: Settings, count: int | None) -> Settings:
    """`settings` with another number of processes on this machine; None leaves it."""
    if count is None:
        return settings
    return replace(settings, workers=msgspec.structs.replace(settings.workers, count=count))


def is_family(settings: Settings) -> bool:
    """True if there is more than one process, here or elsewhere."""
    return settings.workers.count > 1 or settings.workers.first > 0 or bool(settings.siblings)


@dataclass(frozen=True, slots=True)
class Family:
    """All identities by their number. `urls` says where each is reached by its siblings; `own` is this process's."""

    pubkeys: tuple[str, ...]
    urls: tuple[str, ...]
    own: int
    local: range

    @classmethod
    def of(cls, settings: Settings, own: int, ports: dict[int, int]) -> "Family":
        """The family as the process with identity `own` sees it; `ports` are those of this machine's processes."""
        host = settings.workers.host
        shown = f"[{host}]" if ":" in host else host
        urls = [
            address or f"http://{shown}:{ports[index]}" for index, address in enumerate(_addresses(settings))
        ]
        pubkeys = tuple(key.pubkey for key in identities(settings))
        return cls(pubkeys, tuple(urls), own, local_indexes(settings))

    @property
    def others(self) -> list[int]:
        return [index for index in range(len(self.pubkeys)) if index != self.own]

    def index_of(self, pubkey: str) -> int | None:
        """The number of an identity; None for a stranger."""
        try:
            return self.pubkeys.index(pubkey)
        except ValueError:
            return None

    def home(self, client: bytes) -> int:
        """The identity that a client is offered: the same in every process, and for few clients another one when an
        identity is added (rendezvous hashing)."""
        indexes = range(len(self.pubkeys))
        return max(indexes, key=lambda index: sha256(client + self.pubkeys[index].encode()).digest())


def _addresses(settings: Settings) -> list[str]:
    """Every identity's configured address, empty for those of this machine. Raises `ConfigError`."""
    found = dict.fromkeys(local_indexes(settings), "")
    for sibling in settings.siblings:
        if sibling.index in found:
            raise ConfigError(f"siblings: identity {sibling.index} is there twice, or is this machine's own")
        found[sibling.index] = sibling.url.rstrip("/")
    if sorted(found) != list(range(len(found))):
        raise ConfigError(
            f"siblings: identities {sorted(found)} leave a gap; with those of this machine "
            "(workers.first, workers.count) they must be numbered from 0"
        )
    return [found[index] for index in range(len(found))]

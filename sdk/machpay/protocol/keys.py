"""Ed25519 keys: signing with PyNaCl, verification strictly with solders.

Strict verification refuses small-order keys and non-canonical signatures, exactly as the chain's precompile
does; a signature that passes here therefore passes there.
"""

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Self

from nacl.bindings import crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError
from solders.keypair import Keypair
from solders.pubkey import Pubkey
from solders.signature import Signature

from machpay.protocol.errors import MalformedError

SIGNATURE_LENGTH = 64


class SigningKey:
    """The private key of an agent, gateway or relayer.

    Key files are Solana's: a JSON array of 64 numbers, the seed followed by the public key.
    """

    __slots__ = ("_secret", "pubkey", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != 32:
            raise MalformedError("a signing key is made from a seed of 32 bytes")
        public, self._secret = crypto_sign_seed_keypair(seed)
        self.public = Pubkey(public)
        self.pubkey = str(self.public)

    def __repr__(self) -> str:
        return f"SigningKey({self.pubkey})"

    @classmethod
    def generate(cls) -> Self:
        return cls(os.urandom(32))

    @classmethod
    def from_bytes(cls, raw: bytes) -> Self:
        """From 64 bytes (seed and public key, which must belong together) or a bare 32-byte seed."""
        if len(raw) not in (32, 64):
            raise MalformedError(f"a secret key has 32 or 64 bytes, not {len(raw)}")
        key = cls(raw[:32])
        if len(raw) == 64 and raw[32:] != bytes(key.public):
            raise MalformedError("the public half of the secret key does not belong to its seed")
        return key

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From a JSON array of numbers or base58, the two forms wallets export."""
        text = text.strip()
        try:
            raw = bytes(json.loads(text)) if text.startswith("[") else bytes(Keypair.from_base58_string(text))
        except (TypeError, ValueError) as error:
            raise MalformedError("a secret key is a JSON array of 64 numbers or base58 text") from error
        return cls.from_bytes(raw)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read a key file. Raises `OSError` if it cannot be read, `MalformedError` if it holds no key."""
        return cls.from_text(Path(path).read_text())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a new key file readable by its owner only; refuses to overwrite one (`FileExistsError`)."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(list(self._secret), file)
            file.flush()
            os.fsync(file.fileno())

    def derive(self, tag: bytes, label: bytes = b"") -> "SigningKey":
        """Another key that only the holder of this one can make: `Ed25519(sha256(tag || seed 32 || label))`.

        `tag` names the purpose and its version; give labels of one tag one length, so that none is another's prefix.
        """
        return SigningKey(sha256(tag + self._secret[:32] + label).digest())

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature over `message`."""
        return crypto_sign(message, self._secret)[:SIGNATURE_LENGTH]

    def keypair(self) -> Keypair:
        """The same key for building transactions."""
        return Keypair.from_bytes(self._secret)


def verify(pubkey: Pubkey, message: bytes, signature: bytes) -> bool:
    """True if `signature` (64 bytes) is `pubkey`'s over exactly `message`, verified strictly."""
    if len(signature) != SIGNATURE_LENGTH:
        return False
    return Signature(signature).verify(pubkey, message)


def verify_beside(pubkey: Pubkey, message: bytes, signature: bytes) -> bool:
    """`verify` by libsodium: as strict, a fifth slower, and without the interpreter's lock, so that threads verify side
    by side. For servers that check many signatures a request; whoever checks one waits less with `verify`."""
    if len(signature) != SIGNATURE_LENGTH:
        return False
    try:
        crypto_sign_open(signature + message, bytes(pubkey))
    except BadSignatureError:
        return False
    return True

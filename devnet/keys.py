"""The demo's keys: one file per role under `var/keys`, drawn at first use, readable by their owner only."""

from pathlib import Path

from machpay.protocol.keys import SigningKey


class KeyStore:
    """Named key files in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str) -> Path:
        """The file of `name`, created with a fresh key if there is none."""
        path = self.folder / f"{name}.json"
        if not path.exists():
            SigningKey.generate().save(path)
        return path

    def get(self, name: str) -> SigningKey:
        return SigningKey.load(self.path(name))

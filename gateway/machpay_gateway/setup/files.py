"""The files of a new gateway: its key, which is never overwritten, and `gateway.toml`. Both are 0600, because an RPC
URL may hold an access token, and written whole or not at all."""

import json
import os
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from machpay.protocol.errors import MalformedError
from machpay.protocol.keys import SigningKey
from machpay_gateway.errors import ConfigError, Refused
from machpay_gateway.settings import parse_settings

OWN_SETTINGS: Final = frozenset({"keypair_file", "vendor", "data_dir"})
"""What belongs to one gateway and is not taken over from another's configuration."""
_LISTS: Final = frozenset({"routes", "siblings"})
_HEAD: Final = """\
# A MachPay gateway. Every setting is explained in docs/gateway.md; amounts are
# atomic units (1 USDC = 1,000,000), times seconds.
"""


def take_over(path: Path) -> dict[str, Any]:
    """The offer of another configuration: everything but its key, vendor, folder and network. Raises `ConfigError`."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--from: cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--from: {path} is not valid TOML: {error}") from error
    gateway = tables.pop("gateway", {})
    tables.pop("network", None)
    for name, table in {"gateway": gateway, **tables}.items():
        each = table if name in _LISTS and isinstance(table, list) else [table]
        if not all(isinstance(one, dict) for one in each):
            raise ConfigError(f"--from: {path}: {name} must be a table")
    tables["gateway"] = {name: value for name, value in gateway.items() if name not in OWN_SETTINGS}
    return tables


def key_at(path: Path) -> tuple[SigningKey, bool]:
    """The gateway's key, drawn and saved if there is none yet; and whether it is new. Raises `ConfigError`."""
    try:
        if path.exists():
            return SigningKey.load(path), False
        key = SigningKey.generate()
        key.save(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (MalformedError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} exists and holds no key: {error}") from error
    return key, True


def refuse_to_overwrite(path: Path, *, force: bool) -> None:
    """Raises `Refused` if `path` exists, unless told that it may go."""
    if path.exists() and not force:
        raise Refused(f"{path} exists; --force replaces it and keeps it as {backup_of(path)}")


def backup_of(path: Path) -> Path:
    """Where a file goes that is replaced."""
    return path.with_name(path.name + ".bak")


def would_load(tables: Mapping[str, Any], folder: Path) -> None:
    """Check a configuration whose key need not be there yet. Raises `ConfigError`."""
    with tempfile.TemporaryDirectory() as scratch:
        key = Path(scratch) / "key.json"
        SigningKey.generate().save(key)
        gateway = {**tables["gateway"], "keypair_file": str(key)}
        parse_settings(to_toml({**tables, "gateway": gateway}), folder)


def write_configuration(path: Path, text: str) -> None:
    """Put `text` at `path`, readable by its owner only; what was there becomes the backup. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            path.replace(backup_of(path))
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def to_toml(tables: Mapping[str, Any]) -> str:
    """Tables of plain values and lists of such tables as TOML, under a line that says what the file is."""
    parts = [_HEAD]
    for name, table in tables.items():
        if isinstance(table, Mapping):
            parts.append(f"[{name}]\n{_lines(table)}")
        else:
            parts.extend(f"[[{name}]]\n{_lines(each)}" for each in table)
    return "\n".join(parts)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{name} = {_value(value)}\n" for name, value in table.items())


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, str):
        # JSON's escapes are TOML's, but for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_value(name)} = {_value(each)}' for name, each in value.items())} }}"
    if isinstance(value, Iterable):
        return f"[{', '.join(map(_value, value))}]"
    raise ConfigError(f"{value!r} cannot be written to the configuration")

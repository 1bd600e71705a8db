"""The IDL's JSON document, made from `describe`, from the events of machpay.chain.events and from its error numbers."""

import json
from pathlib import Path
from typing import Any, Final

from contracts.idl import describe
from contracts.idl.describe import AccountSpec, InstructionSpec, Type
from machpay.chain import accounts, events
from machpay.chain.errors import PROGRAM_ERRORS
from machpay.chain.instructions import discriminator

PATH: Final = Path(__file__).parent / "machpay.json"
VERSION: Final = "0.1.0"
SPEC: Final = "0.1.0"
# Every deployment has a program id of its own; clients put it in place of this one.
ADDRESS: Final = "11111111111111111111111111111111"

_EVENT_AUTHORITY: Final = AccountSpec("event_authority", seeds=("__event_authority",))
_PROGRAM: Final = AccountSpec("program")


def document(address: str = ADDRESS) -> dict[str, Any]:
    """The IDL of the program at `address` (base58)."""
    structures = {
        **describe.ACCOUNTS,
        **{kind.__name__: _event_fields(kind) for kind in _event_structures()},
        **describe.ARGUMENT_TYPES,
    }
    return {
        "address": address,
        "metadata": {
            "name": "machpay",
            "version": VERSION,
            "spec": SPEC,
            "description": "One bond per agent, many vendors, vouchers settled in batches",
        },
        "instructions": [_instruction(spec) for spec in describe.INSTRUCTIONS],
        "accounts": [
            {"name": name, "discriminator": list(accounts.discriminator(name))} for name in describe.ACCOUNTS
        ],
        "events": [
            {"name": kind.__name__, "discriminator": list(events.discriminator(kind.__name__))}
            for kind in events.EVENT_KINDS
        ],
        "errors": [
            {"code": code, "name": error.name, "msg": error.text} for code, error in PROGRAM_ERRORS.items()
        ],
        "types": [_structure(name, fields) for name, fields in structures.items()],
    }


def text() -> str:
    """The committed file's content."""
    return json.dumps(document(), indent=2) + "\n"


def _instruction(spec: InstructionSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "docs": list(spec.doc),
        "discriminator": list(discriminator(spec.name)),
        "accounts": [_account(account) for account in (*spec.accounts, _EVENT_AUTHORITY, _PROGRAM)],
        "args": [{"name": name, "type": type_} for name, type_ in spec.args],
    }


def _account(spec: AccountSpec) -> dict[str, Any]:
    found: dict[str, Any] = {"name": spec.name}
    if spec.doc:
        found["docs"] = [spec.doc]
    for flag in ("writable", "signer", "optional"):
        if getattr(spec, flag):
            found[flag] = True
    if spec.address is not None:
        found["address"] = spec.address
    if spec.seeds:
        found["pda"] = {"seeds": [_seed(seed) for seed in spec.seeds]}
    return found


def _seed(seed: str) -> dict[str, Any]:
    """`$account` is the account's key, `$account.field` a field of a GlobalBond, anything else a constant."""
    if not seed.startswith("$"):
        return {"kind": "const", "value": list(seed.encode())}
    path = seed[1:]
    found = {"kind": "account", "path": path}
    return {**found, "account": "GlobalBond"} if "." in path else found


def _event_structures() -> list[type]:
    """Every event, and what its vectors hold."""
    found: list[type] = []
    for kind in events.EVENT_KINDS:
        found.append(kind)
        found += [type_ for _, type_ in events.fields(kind) if isinstance(type_, type)]
    return found


def _event_fields(kind: type) -> tuple[tuple[str, Type], ...]:
    return tuple((name, _event_type(type_)) for name, type_ in events.fields(kind))


def _event_type(type_: str | type) -> Type:
    if isinstance(type_, type):
        return {"vec": {"defined": {"name": type_.__name__}}}
    return {"array": ["u8", 32]} if type_ == "hash" else type_


def _structure(name: str, fields: tuple[tuple[str, Type], ...]) -> dict[str, Any]:
    members = [{"name": field, "type": type_} for field, type_ in fields]
    return {"name": name, "type": {"kind": "struct", "fields": members}}

"""The IDL against the code: whatever drifts apart is named here, the Rust source being the truth."""

import json
import re
import struct
from typing import Any

import pytest
from solders.instruction import AccountMeta, Instruction
from solders.keypair import Keypair
from solders.pubkey import Pubkey

from contracts.idl import describe
from contracts.idl.document import PATH, VERSION, document, text
from machpay.chain import accounts, events
from machpay.chain import instructions as build
from machpay.chain.errors import PROGRAM_ERRORS
from machpay.chain.instructions import ConfigChange
from tests.program import moves
from tests.program.world import ROOT, Vendor, World

SOURCES = ROOT / "contracts" / "program" / "src"
DISPATCH = (SOURCES / "entrypoint.rs").read_text()
IDL: dict[str, Any] = json.loads(PATH.read_text())
SIZES = {"u8": 1, "bool": 1, "u16": 2, "u64": 8, "i64": 8, "pubkey": 32}
RUST_TYPES = {"Address": "pubkey", "U64": "u64", "I64": "i64", "U16": "u16", "u8": "u8"}
INSTRUCTIONS = {entry["name"]: entry for entry in IDL["instructions"]}
UNPREFIXED = ("settle_cumulative", "settle_aggregated")
# Signers of some calls only, in the words of the tables.
CONDITIONAL = ("first deposit", "allow-list on, first deposit")


def _bytes_of(source: str, constant: str) -> list[int]:
    found = re.search(rf"const {constant}: \[u8; 8\] = \[(.*?)\];", source, re.DOTALL)
    assert found is not None, constant
    return [int(value, 16) for value in re.findall(r"0x[0-9a-f]{2}", found[1])]


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _size(type_: Any) -> int:
    if isinstance(type_, str):
        return SIZES[type_]
    inner, count = type_["array"]
    return _size(inner) * int(count)


def test_the_committed_file_is_what_the_description_makes() -> None:
    assert PATH.read_text() == text(), "run: python -m contracts.idl"


def test_a_deployments_idl_differs_in_its_address_only() -> None:
    address = str(Keypair().pubkey())
    assert document(address) == {**IDL, "address": address}


def test_the_version_is_the_crates() -> None:
    manifest = (ROOT / "contracts" / "program" / "Cargo.toml").read_text()
    assert f'\nversion = "{VERSION}"\n' in manifest


def test_every_dispatched_instruction_is_described_and_no_other() -> None:
    dispatched = set(re.findall(r"(\w+)::DISCRIMINATOR => ", DISPATCH))
    assert set(INSTRUCTIONS) == dispatched
    files = {path.stem for path in (SOURCES / "instructions").glob("*.rs")} - {"mod"}
    assert files == dispatched


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_discriminators_are_the_sources(name: str) -> None:
    source = (SOURCES / "instructions" / f"{name}.rs").read_text()
    assert INSTRUCTIONS[name]["discriminator"] == _bytes_of(source, "DISCRIMINATOR")


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_accounts_are_those_of_the_sources_table(name: str) -> None:
    source = (SOURCES / "instructions" / f"{name}.rs").read_text()
    rows = re.findall(r"^//! \| (\d+) \| (\w+) \| (.*?) ?\| (.*?) ?\|", source, re.MULTILINE)
    assert [int(number) for number, *_ in rows] == list(range(len(rows)))
    expected = [
        (account, signer == "yes" or signer in CONDITIONAL, writable == "yes")
        for _, account, signer, writable in rows
    ]
    listed = [
        (account["name"], account.get("signer", False), account.get("writable", False))
        for account in INSTRUCTIONS[name]["accounts"]
    ]
    assert listed == expected


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_every_argument_is_named_in_the_sources_head(name: str) -> None:
    head = (SOURCES / "instructions" / f"{name}.rs").read_text().split("\nuse ")[0]
    arguments = INSTRUCTIONS[name]["args"]
    if not arguments:
        assert "No arguments." in head or "without length prefix" in head
    for argument in arguments:
        if argument["name"] not in ("first", "second"):
            assert re.search(rf"\b{argument['name']}\b", head), argument["name"]


@pytest.mark.parametrize("kind", describe.ACCOUNTS)
def test_account_layouts_are_the_structs_of_the_source(kind: str) -> None:
    source = (SOURCES / "state" / f"{_snake(kind)}.rs").read_text()
    body = re.search(rf"pub struct {kind} {{(.*?)\n}}", source, re.DOTALL)
    assert body is not None
    expected: list[tuple[int, str, Any]] = [(8, "version", "u8"), (9, "bump", "u8")]
    for offset, name, type_ in re.findall(r"/// (\d+)\b.*?pub (\w+): (.*?),(?:\n|$)", body[1], re.DOTALL):
        if name != "header":
            array = re.fullmatch(r"\[u8; (\w+)\]", type_)
            length = array and {"METADATA_URI_LENGTH_MAX": build.METADATA_URI_LENGTH_MAX}.get(array[1])
            described = {"array": ["u8", length or int(array[1])]} if array else RUST_TYPES[type_]
            expected.append((int(offset), name, described))
    (structure,) = [entry for entry in IDL["types"] if entry["name"] == kind]
    offset, listed = 8, []
    for field in structure["type"]["fields"]:
        listed.append((offset, field["name"], field["type"]))
        offset += _size(field["type"])
    assert listed == expected
    assert f"size_of::<{kind}>() == {offset}" in source
    (entry,) = [entry for entry in IDL["accounts"] if entry["name"] == kind]
    assert entry["discriminator"] == _bytes_of(source, "DISCRIMINATOR")


def test_every_account_kind_of_the_source_is_described() -> None:
    assert {_snake(kind) for kind in describe.ACCOUNTS} == {
        path.stem for path in (SOURCES / "state").glob("*.rs")
    } - {"mod"}
    assert {entry["name"] for entry in IDL["accounts"]} == set(describe.ACCOUNTS)


def test_our_decoders_have_the_same_fields() -> None:
    ours = {"price": "price_atomic"}
    for kind, fields in describe.ACCOUNTS.items():
        left_out = {"version", "padding", "reserved", "metadata_uri_length"}
        expected = [ours.get(name, name) for name, _ in fields if name not in left_out]
        assert list(getattr(accounts, kind).__slots__) == expected, kind


def test_events_have_the_sources_discriminators() -> None:
    source = (SOURCES / "event.rs").read_text()
    constants = set(re.findall(r"pub const (\w+): \[u8; 8\]", source)) - {"INSTRUCTION_TAG"}
    assert {_snake(entry["name"]).upper() for entry in IDL["events"]} == constants
    for entry in IDL["events"]:
        assert entry["discriminator"] == _bytes_of(source, _snake(entry["name"]).upper()), entry["name"]


@pytest.mark.parametrize("kind", events.EVENT_KINDS, ids=lambda kind: kind.__name__)
def test_event_fields_are_written_in_this_order(kind: type) -> None:
    """The types, in the order in which the source appends them; events with a list are checked by running them."""
    written = {"address": "pubkey", "bytes": "string"}
    constant = _snake(kind.__name__).upper()
    for path in SOURCES.rglob("*.rs"):
        found = re.search(
            rf"::new\(discriminator::{constant}\);(.*?)(\.as_bytes\(\)|\n}}\n)",
            path.read_text(),
            re.DOTALL,
        )
        if found is not None:
            break
    assert found is not None, f"nobody writes {constant}"
    calls = re.findall(r"\.(address|u64|i64|u32|u16|bool|bytes|hash)\((?!\))", found[1])
    appended = [written.get(call, call) for call in calls]
    described = [type_ for _, type_ in events.fields(kind)]
    if any(isinstance(type_, type) for type_ in described):
        before = described[: [isinstance(type_, type) for type_ in described].index(True)]
        assert appended[: len(before) + 1] == [*before, "u32"]
    elif kind is events.AgentSlashed:
        # The two gateways come as raw bytes.
        assert appended == ["hash" if index in (3, 4) else type_ for index, type_ in enumerate(described)]
    else:
        assert appended == described


def test_errors_are_those_of_the_source() -> None:
    source = (SOURCES / "error.rs").read_text()
    listed = re.findall(r'^    (\w+) = (0x[0-9a-f]+), "(.*)";$', source, re.MULTILINE)
    expected = [{"code": int(code, 16), "name": name, "msg": message} for name, code, message in listed]
    assert sorted(IDL["errors"], key=lambda error: error["code"]) == expected
    assert len(expected) == len(PROGRAM_ERRORS)


# ---- our own builders


def _built(world: World) -> dict[str, Instruction]:
    """One instruction of each kind, by our own builders."""
    network, key = world.network, [Keypair().pubkey() for _ in range(4)]
    config = world.config()
    change = ConfigChange(*(Pubkey(bytes([i + 1] * 32)) for i in range(3)), 1, 2, 3, 4, 5, True, False)
    return {
        "initialize_bond": build.initialize_bond(
            network, payer=key[0], upgrade_authority=key[1], config=config
        ),
        "set_config": build.set_config(network, admin=key[0], change=change),
        "accept_admin": build.accept_admin(network, pending_admin=key[0]),
        "deposit_bond": build.deposit_bond(
            network,
            agent=key[0],
            source=key[1],
            amount=7,
            owner=key[2],
            authority=key[2],
            payer=key[3],
            approver=Keypair().pubkey(),
        ),
        "request_withdrawal": build.request_withdrawal(network, agent=key[0], amount=7),
        "cancel_withdrawal": build.cancel_withdrawal(network, agent=key[0], owner=key[1]),
        "withdraw_bond": build.withdraw_bond(network, agent=key[0], destination=key[1], authority=key[2]),
        "register_vendor": build.register_vendor(
            network, authority=key[0], payout=key[1], price=5, metadata_uri="uri", payer=key[2]
        ),
        "update_vendor": build.update_vendor(
            network, authority=key[0], payout=key[1], price=5, metadata_uri="uri"
        ),
        "register_gateway": build.register_gateway(network, gateway=key[0], authority=key[1], payer=key[2]),
        "revoke_gateway": build.revoke_gateway(network, gateway=key[0], authority=key[1]),
        "commit_batch": build.commit_batch(
            network, relayer=key[0], sequence=3, root=bytes(range(32)), leaf_count=4, total=5
        ),
        "execute_claim": build.execute_claim(
            network, vendor=key[0], payout=key[1], agent=key[2], gateway=key[3]
        ),
        "distribute": build.distribute(network, vendor=key[0], payout=key[1], channels=key[2:]),
        "sweep_forfeited": build.sweep_forfeited(
            network, agent=key[0], reporter_token_account=key[1], treasury_token_account=key[2]
        ),
        **_with_signatures(world),
    }


def _with_signatures(world: World) -> dict[str, Instruction]:
    """Those that stand behind a signature check."""
    agent, reporter = Keypair(), Keypair()
    vendor = Vendor(Keypair(), Keypair(), Keypair().pubkey())
    other = Keypair().pubkey()
    return {
        "settle_cumulative": world.settle_ixs(vendor, world.item(agent, vendor.gateway, 5, create=False))[1],
        "settle_aggregated": moves.aggregate_ixs(world, agent, [(vendor, 5)])[1],
        "claim_cumulative": moves.claim_ixs(world, agent, vendor, 5)[1],
        "slash_equivocation": moves.proof(world, agent, vendor.key, other, reporter)[1],
    }


def test_our_builders_use_the_same_accounts_in_the_same_order(bare: World) -> None:
    built = _built(bare)
    assert set(built) == set(INSTRUCTIONS)
    for name, ix in built.items():
        named = _named(name, ix)
        described = [
            (account.get("signer", False), account.get("writable", False))
            for account in INSTRUCTIONS[name]["accounts"]
        ]
        assert [(meta.is_signer, meta.is_writable) for meta in named] == described, name
        for meta, account in zip(named, INSTRUCTIONS[name]["accounts"], strict=True):
            if "address" in account:
                assert str(meta.pubkey) == account["address"], name


def test_our_builders_arguments_read_back_as_described(bare: World) -> None:
    for name, ix in _built(bare).items():
        entry = INSTRUCTIONS[name]
        data = bytes(ix.data)
        assert list(data[:8]) == entry["discriminator"], name
        offset = 8
        for argument in entry["args"]:
            offset += _length(argument["type"], data, offset)
        # One u64 per channel follows in the two that an IDL cannot describe whole.
        assert len(data) - offset == (8 if name in UNPREFIXED else 0), name


def test_addresses_that_clients_derive_are_ours(bare: World) -> None:
    """Seeds made of constants and of accounts' keys; those of a GlobalBond's mint are the network's mint."""
    network = bare.network
    for name, ix in _built(bare).items():
        listed = INSTRUCTIONS[name]["accounts"]
        addresses = {
            account["name"]: meta.pubkey for account, meta in zip(listed, _named(name, ix), strict=True)
        }
        addresses["global_bond.mint"] = network.mint
        for account in listed:
            if "pda" in account:
                seeds = [
                    bytes(seed["value"]) if seed["kind"] == "const" else bytes(addresses[seed["path"]])
                    for seed in account["pda"]["seeds"]
                ]
                derived, _ = Pubkey.find_program_address(seeds, network.program_id)
                assert derived == addresses[account["name"]], (name, account["name"])


def _named(name: str, ix: Instruction) -> list[AccountMeta]:
    """The instruction's accounts without the remaining ones."""
    return list(ix.accounts)[: len(INSTRUCTIONS[name]["accounts"])]


def _length(type_: Any, data: bytes, offset: int) -> int:
    """Bytes that a value of this type takes at `offset`."""
    if isinstance(type_, dict) and "defined" in type_:
        (structure,) = [entry for entry in IDL["types"] if entry["name"] == type_["defined"]["name"]]
        return sum(_size(field["type"]) for field in structure["type"]["fields"])
    if type_ == "string":
        return 4 + int(struct.unpack_from("<I", data, offset)[0])
    if isinstance(type_, dict) and "option" in type_:
        return 1 + (_length(type_["option"], data, offset + 1) if data[offset] else 0)
    return _size(type_)

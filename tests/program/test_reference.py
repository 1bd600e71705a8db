"""docs/program.md against the source: its offsets are those of the Rust structs, the discriminators are Anchor's."""

import hashlib
import re

import pytest

from machpay.chain.events import EVENT_KINDS, fields
from tests.program.world import ROOT

REFERENCE = (ROOT / "docs" / "program.md").read_text()
SOURCES = ROOT / "contracts" / "program" / "src"
KINDS = ["GlobalBond", "AgentAccount", "VendorAccount", "GatewayAccount", "Channel", "Batch"]
INSTRUCTIONS = sorted({path.stem for path in (SOURCES / "instructions").glob("*.rs")} - {"mod"})
EVENTS = {kind.__name__: kind for kind in EVENT_KINDS}


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def _bytes_of(source: str, constant: str) -> bytes:
    found = re.search(rf"const {constant}: \[u8; 8\] = \[(.*?)\];", source, re.DOTALL)
    assert found is not None, constant
    return bytes(int(value, 16) for value in re.findall(r"0x[0-9a-f]{2}", found[1]))


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]


@pytest.mark.parametrize("kind", KINDS)
def test_offsets_in_the_reference_are_those_of_the_source(kind: str) -> None:
    source = (SOURCES / "state" / f"{_snake(kind)}.rs").read_text()
    body = re.search(rf"pub struct {kind} {{(.*?)\n}}", source, re.DOTALL)
    assert body is not None
    fields = re.findall(r"/// (\d+).*?pub (\w+):", body[1], re.DOTALL)
    expected = {(int(offset), name) for offset, name in fields if name not in ("header", "padding")}

    section = re.search(
        rf"^\*\*{kind}\*\* .*?(\d+) bytes\n(.*?)(?=^\*\*|^## )", REFERENCE, re.DOTALL | re.MULTILINE
    )
    assert section is not None
    rows = re.findall(r"^\| (\d+) \| (\w+)", section[2], re.MULTILINE)
    assert {(int(offset), name) for offset, name in rows} == expected
    assert f"size_of::<{kind}>() == {section[1]}" in source


@pytest.mark.parametrize("kind", KINDS)
def test_account_discriminators_are_anchors(kind: str) -> None:
    source = (SOURCES / "state" / f"{_snake(kind)}.rs").read_text()
    assert _bytes_of(source, "DISCRIMINATOR") == _sha256(f"account:{kind}")


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instruction_discriminators_are_anchors(name: str) -> None:
    source = (SOURCES / "instructions" / f"{name}.rs").read_text()
    assert _bytes_of(source, "DISCRIMINATOR") == _sha256(f"global:{name}")
    assert f"| `{name}` |" in REFERENCE


@pytest.mark.parametrize("name", EVENTS)
def test_event_discriminators_are_anchors(name: str) -> None:
    source = (SOURCES / "event.rs").read_text()
    assert _bytes_of(source, _snake(name).upper()) == _sha256(f"event:{name}")
    (row,) = re.findall(rf"^\| `{name}` \| (.*) \|$", REFERENCE, re.MULTILINE)
    assert _described(row) == _fields(EVENTS[name])


def _fields(kind: type) -> list[str]:
    """The fields as the reference writes them; a key needs no type."""
    found = []
    for field, type_ in fields(kind):
        if isinstance(type_, type):
            found += [f"{field} vec of {{", *_fields(type_), "}"]
        else:
            found.append(field if type_ == "pubkey" else f"{field} {type_}")
    return found


def _described(row: str) -> list[str]:
    """A row's fields, without remarks in brackets."""
    plain = re.sub(r" \([^)]*\)", "", row).replace("{ ", "{, ").replace(" }", ", }")
    return plain.split(", ")

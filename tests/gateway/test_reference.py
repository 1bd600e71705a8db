"""docs/gateway.md is the reference: commands, options, settings, metrics, events, health, as they are in the code."""

import argparse
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from machpay.protocol import events
from machpay_gateway import settings
from machpay_gateway.cli import parser
from machpay_gateway.commands.base import EXIT_CODES
from tests.gateway.commands import Command, command
from tests.gateway.conftest import RunningGateway

__all__ = ["command"]

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "gateway.md").read_text()
_UNITS = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}


def subcommands() -> dict[str, argparse.ArgumentParser]:
    (group,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(group.choices)


def section(heading: str) -> str:
    """The text below a heading, up to the next of its level or above."""
    level = heading.split()[0]
    found = re.search(
        rf"^{re.escape(heading)}$(.*?)(?=^#{{2,{len(level)}}} |\Z)", TEXT, re.DOTALL | re.MULTILINE
    )
    assert found is not None, f"docs/gateway.md has no section {heading!r}"
    return found[1]


def rows(text: str, first_cell: str) -> list[list[str]]:
    """The cells of the table whose head begins with `first_cell`."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| {first_cell} |"))
    body = lines[start + 2 :]
    end = next((number for number, line in enumerate(body) if not line.startswith("|")), len(body))
    return [
        [cell.replace("\0", "|").strip() for cell in line.replace(r"\|", "\0").strip("|").split("|")]
        for line in body[:end]
    ]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# ---- commands


@pytest.mark.parametrize("name", list(subcommands()))
def test_every_option_of_a_command_is_in_its_table(name: str) -> None:
    documented = [
        option.split()[0] for row in rows(section(f"### `{name}`"), "option") for option in names(row[0])
    ]
    actual = [
        option
        for action in subcommands()[name]._actions
        for option in action.option_strings
        if option not in ("-h", "--help", "--config", "--json")
    ]
    assert sorted(documented) == sorted(actual)
    assert len(documented) == len(set(documented))


def test_exit_codes_are_the_codes_of_the_help() -> None:
    told = {row[0]: row[1] for row in rows(section("## Commands"), "exit code")}
    helped = re.findall(r"^  (\d+)  ", EXIT_CODES, re.MULTILINE)
    assert list(told) == helped


@pytest.mark.parametrize("name", list(subcommands()))
def test_help_says_what_a_command_does_and_how_it_ends(command: Command, name: str) -> None:
    ran = command(name, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.endswith(EXIT_CODES)
    for action in subcommands()[name]._actions:
        assert action.help, f"{name} {action.option_strings} has no help"


def test_without_a_command_there_is_help_and_code_2(command: Command) -> None:
    ran = command()
    assert (ran.code, ran.out) == (2, "")
    assert "usage: machpay-gateway" in ran.err


# ---- settings


def tables() -> dict[str, type[msgspec.Struct]]:
    """Every table of gateway.toml as the docs name it, with its type."""
    found = {}
    for part in msgspec.structs.fields(settings._File):
        inner = getattr(part.type, "__args__", None)
        name = f"[[{part.name}]]" if inner else f"[{part.name}]"
        found[name] = inner[0] if inner else part.type
    return found


def default_of(field: msgspec.structs.FieldInfo) -> Any:
    if field.default is not msgspec.NODEFAULT:
        return field.default
    if field.default_factory is not msgspec.NODEFAULT:
        return field.default_factory()
    return "required"


def read_default(text: str, like: Any) -> Any:
    """A default as the docs write it, in the type of the real one."""
    text = text.strip().replace("`", "")
    if text == "required":
        return text
    if text in ("empty", "none", "from Host"):
        return type(like)()
    if isinstance(like, bool):
        return {"true": True, "false": False}[text]
    if isinstance(like, int | float):
        number, _, unit = text.replace(",", "").partition(" ")
        return type(like)(float(number) * _UNITS.get(unit, 1))
    return text.strip('"')


@pytest.mark.parametrize("table", list(tables()))
def test_every_setting_is_documented_with_its_default(table: str) -> None:
    fields = {field.name: default_of(field) for field in msgspec.structs.fields(tables()[table])}
    documented: dict[str, Any] = {}
    for cells in rows(TEXT, f"`{table}`"):
        these = names(cells[0])
        written = [part for part in cells[1].split(", ") if part]
        if len(written) < len(these):
            written = written * len(these)
        for name, text in zip(these, written, strict=True):
            assert name not in documented, f"{table} {name} is there twice"
            documented[name] = read_default(text, fields.get(name, ""))
    assert documented == fields


# ---- what a running gateway shows


async def test_every_metric_is_documented_with_its_labels(gateway: RunningGateway) -> None:
    payer = gateway.payer()
    assert (await gateway.get("/paid", headers=payer.pay())).status == 200
    shown = (await gateway.get("/metrics")).body.decode()
    families = re.findall(r"^# TYPE (machpay_gateway_\w+) (\w+)$", shown, re.MULTILINE)
    # A counter comes with the time of its creation, which nobody asks for.
    actual = {name: kind for name, kind in families if not name.endswith("_created")}
    documented = {
        f"machpay_gateway_{name}": row[1]
        for row in rows(section("### Metrics"), "`machpay_gateway_…`")
        for name in names(row[0])
    }
    assert documented == actual


async def test_every_component_of_health_is_documented(gateway: RunningGateway) -> None:
    components = (await gateway.get("/health")).json()["components"]
    assert {names(row[0])[0] for row in rows(section("### Health"), "component")} == set(components)


def test_every_event_is_documented() -> None:
    kinds = {
        value
        for name, value in vars(events).items()
        if name.isupper() and str(value).startswith("com.machpay.")
    }
    documented = {f"com.machpay.{names(row[0])[0]}" for row in rows(section("### Events"), "`com.machpay.…`")}
    assert documented == kinds - {events.SDK_TELEMETRY}


def test_errors_of_arguments_are_json_too(command: Command) -> None:
    for arguments in (["--json"], ["check", "--json", "--bogus"], ["claim", "--minimum", "0", "--json"]):
        ran = command(*arguments)
        assert (ran.code, ran.out, ran.error["error"]) == (2, "", "ArgumentError")
    assert command("check", "--bogus").err.startswith("usage: ")

"""`machpay-gateway init`: what it writes, what it asks, and what it will not do."""

import json
import stat
import tomllib
from pathlib import Path
from typing import Any

import pytest

from machpay.chain.clusters import CLUSTERS
from machpay.protocol.keys import SigningKey
from machpay_gateway.errors import ConfigError
from machpay_gateway.settings import load_settings
from machpay_gateway.setup.offers import OfferedRoute, parse_route, parse_usdc
from tests.gateway.commands import Command, command
from tests.gateway.factories import network
from tests.support.chain import LocalChain, module_chain

__all__ = ["command", "module_chain"]

VENDOR = SigningKey(b"v" * 32)


def description(**changes: Any) -> dict[str, Any]:
    """A network as `var/demo.json` describes one; nothing answers at its addresses."""
    net = network()
    return {
        "rpc_url": "http://127.0.0.1:1",
        "relayer_url": "http://127.0.0.1:1",
        "receiver_url": "http://127.0.0.1:1",
        "program_id": str(net.program_id),
        "mint": str(net.mint),
        "domain": str(net.domain),
        **changes,
    }


@pytest.fixture
def described(tmp_path: Path) -> Path:
    path = tmp_path / "network.json"
    path.write_text(json.dumps(description()))
    return path


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_flags_alone_write_a_configuration_that_loads_and_a_private_key(
    command: Command, described: Path, tmp_path: Path
) -> None:
    config = tmp_path / "shop" / "gateway.toml"
    ran = command(
        *("init", "--json", "--offline", "--no-input", "--config", config, "--network", described),
        *("--vendor", VENDOR.pubkey, "--upstream", "http://127.0.0.1:9000/api/"),
        *("--price", "GET /embed=0.001 Embed one text", "--price", "post /files/*=1.5", "--free", "/status"),
        *("--name", 'Quotes " and \\ too', "--category", "text", "--category", "ai", "--port", "0"),
        *("--public-url", "https://api.example"),
    )
    assert ran.code == 0, ran.err
    settings, key_file = load_settings(config), tmp_path / "shop" / "gateway-key.json"
    assert ran.result["gateway"] == settings.key.pubkey == SigningKey.load(key_file).pubkey
    assert (mode(key_file), mode(config)) == (0o600, 0o600)
    assert (ran.result["key_created"], ran.result["vendor"]) == (True, VENDOR.pubkey)
    assert (settings.network, settings.vendor) == (network(), VENDOR.public)
    assert settings.upstream.url == "http://127.0.0.1:9000/api"
    assert settings.gateway.name == 'Quotes " and \\ too'
    assert settings.gateway.categories == ["text", "ai"]
    assert [(r.method, r.path, r.match, r.price_atomic, r.description) for r in settings.routes.routes] == [
        ("GET", "/embed", "exact", 1_000, "Embed one text"),
        ("POST", "/files/", "prefix", 1_500_000, ""),
        ("GET", "/status", "exact", 0, ""),
    ]
    register, check, run = ran.result["next"]
    assert register == f"machpay-gateway register --config {config} --vendor-keypair VENDOR-KEY-FILE"
    assert (check, run) == (
        f"machpay-gateway check --config {config}",
        f"machpay-gateway run --config {config}",
    )


def test_nothing_is_overwritten_without_force_and_a_key_never(
    command: Command, described: Path, tmp_path: Path
) -> None:
    config = tmp_path / "gateway.toml"
    flags = ["init", "--offline", "--no-input", "--config", config, "--network", described]
    flags += ["--vendor", VENDOR.pubkey, "--upstream", "http://127.0.0.1:9000", "--json"]
    assert command(*flags, "--price", "/a=0.1").code == 0
    before, key = config.read_bytes(), (tmp_path / "gateway-key.json").read_bytes()

    again = command(*flags, "--price", "/b=0.2")
    assert (again.code, again.error["error"]) == (3, "Refused")
    assert config.read_bytes() == before

    forced = command(*flags, "--price", "/b=0.2", "--force")
    assert (forced.code, forced.result["key_created"]) == (0, False)
    assert (tmp_path / "gateway.toml.bak").read_bytes() == before
    assert [route.path for route in load_settings(config).routes.routes] == ["/b"]
    assert (tmp_path / "gateway-key.json").read_bytes() == key


def test_a_configuration_that_would_not_load_leaves_no_file(
    command: Command, described: Path, tmp_path: Path
) -> None:
    ran = command(
        *("init", "--json", "--offline", "--no-input", "--config", tmp_path / "gateway.toml"),
        *("--network", described, "--vendor", VENDOR.pubkey, "--upstream", "http://127.0.0.1:9000"),
        *("--price", "/a=0.1", "--price", "/a=0.2"),
    )
    assert (ran.code, ran.error["error"]) == (2, "ConfigError")
    assert "listed twice" in ran.error["detail"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.json"]
    dry = command(
        *("init", "--json", "--offline", "--no-input", "--dry-run", "--config", tmp_path / "gateway.toml"),
        *("--network", described, "--vendor", VENDOR.pubkey, "--upstream", "http://127.0.0.1:9000"),
        *("--price", "/a=0.1", "--price", "/a=0.2"),
    )
    assert (dry.code, dry.error) == (2, ran.error)


def test_a_dry_run_prints_the_file_and_writes_none(command: Command, described: Path, tmp_path: Path) -> None:
    ran = command(
        *("init", "--dry-run", "--offline", "--no-input", "--config", tmp_path / "gateway.toml"),
        *("--network", described, "--upstream", "http://127.0.0.1:9000", "--price", "/a=0.1"),
        *("--create-vendor-key", tmp_path / "vendor.json"),
    )
    assert ran.code == 0
    assert tomllib.loads(ran.out)["upstream"] == {"url": "http://127.0.0.1:9000"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["network.json"]


def test_the_wizard_asks_again_until_an_answer_can_be_read(
    command: Command, described: Path, tmp_path: Path
) -> None:
    typed = [
        "no such network",
        str(described),
        str(tmp_path / "vendor.json"),
        "ftp://wrong",
        "http://127.0.0.1:9000",
        "Weather",
        "",
        "GET /weather=a lot",
        "GET /weather=0.002 The weather of one place",
        "",
        "70000",
        "8403",
    ]
    config = tmp_path / "gateway.toml"
    ran = command("init", "--interactive", "--offline", "--config", config, answers="\n".join(typed) + "\n")
    assert ran.code == 0, ran.err
    settings = load_settings(config)
    vendor = SigningKey.load(tmp_path / "vendor.json")
    assert mode(tmp_path / "vendor.json") == 0o600
    assert (settings.vendor, settings.gateway.name, settings.gateway.port) == (vendor.public, "Weather", 8403)
    assert [(r.path, r.price_atomic) for r in settings.routes.routes] == [("/weather", 2_000)]
    for complaint in (
        "no such network",
        "ftp://wrong",
        "an answer is needed",
        "'a' is no price",
        "0 to 65535",
    ):
        assert complaint in ran.err
    assert "next:" in ran.out


def test_a_wizard_without_an_operator_ends(command: Command, tmp_path: Path) -> None:
    ran = command("init", "--interactive", "--config", tmp_path / "gateway.toml")
    assert ran.code == 2
    assert "no answer to: network" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("left_out", "named"),
    [
        ("program_id", "--program-id"),
        ("relayer_url", "--relayer-url"),
        ("receiver_url", "--receiver-url"),
        ("domain", "--domain"),
        ("rpc_url", "--rpc-url"),
    ],
)
def test_what_nobody_says_is_named(command: Command, tmp_path: Path, left_out: str, named: str) -> None:
    path = tmp_path / "network.json"
    path.write_text(json.dumps({k: v for k, v in description().items() if k != left_out}))
    ran = command(
        *("init", "--offline", "--no-input", "--config", tmp_path / "gateway.toml", "--network", path),
        *("--vendor", VENDOR.pubkey, "--upstream", "http://127.0.0.1:9000", "--price", "/a=0.1"),
    )
    assert ran.code == 2
    assert f"{named} is needed" in ran.err


def test_a_public_cluster_brings_its_token_and_its_own_hash(command: Command, tmp_path: Path) -> None:
    ran = command(
        *("init", "--json", "--offline", "--no-input", "--config", tmp_path / "gateway.toml"),
        *("--network", "mainnet", "--relayer-url", "https://relayer.example"),
        *("--receiver-url", "https://receiver.example", "--program-id", str(network().program_id)),
        *("--vendor", VENDOR.pubkey, "--upstream", "http://127.0.0.1:9000", "--price", "/a=0.1"),
    )
    assert ran.code == 0, ran.err
    settings, mainnet = load_settings(tmp_path / "gateway.toml"), CLUSTERS["mainnet"]
    assert (settings.network.mint, settings.network.domain) == (mainnet.usdc, mainnet.genesis)
    assert settings.rpc_url == mainnet.rpc_url


def test_the_chain_says_what_the_operator_does_not(
    command: Command, local_chain: LocalChain, tmp_path: Path
) -> None:
    net = local_chain.network
    flags = [
        "init",
        "--json",
        "--no-input",
        "--rpc-url",
        local_chain.rpc_url,
        "--relayer-url",
        "http://127.0.0.1:1",
    ]
    flags += [
        "--receiver-url",
        "http://127.0.0.1:1",
        "--program-id",
        str(net.program_id),
        "--price",
        "/a=0.1",
    ]
    flags += ["--vendor", VENDOR.pubkey, "--upstream", "http://127.0.0.1:9000"]
    ran = command(*flags, "--config", tmp_path / "gateway.toml")
    assert ran.code == 0, ran.err
    assert load_settings(tmp_path / "gateway.toml").network == net
    (note,) = ran.result["notes"]
    assert note.startswith("http://127.0.0.1:1/network does not answer")

    other = command(*flags, "--config", tmp_path / "other.toml", "--domain", str(network().domain))
    assert (other.code, other.error["error"]) == (2, "ConfigError")
    assert "these are two networks" in other.error["detail"]
    assert not (tmp_path / "other.toml").exists()

    unknown = command(*flags, "--config", tmp_path / "unknown.toml", "--mint", VENDOR.pubkey)
    assert unknown.code == 0
    assert f"holds no bonds in token {VENDOR.pubkey}" in unknown.result["notes"][-1]


def test_an_offer_moves_to_another_network_with_its_prices_and_without_its_keys(
    command: Command, described: Path, tmp_path: Path
) -> None:
    flags = ["init", "--json", "--offline", "--no-input", "--network", described, "--vendor", VENDOR.pubkey]
    first = tmp_path / "demo" / "gateway.toml"
    ran = command(
        *(*flags, "--config", first, "--upstream", "http://127.0.0.1:9000", "--price", "/a=0.1"),
        *("--name", "Weather", "--category", "weather"),
    )
    assert ran.code == 0, ran.err
    schema = {"type": "object", "properties": {"a b": {"type": "string"}}, "required": ["a b"]}
    written = 'input_schema = {type = "object", properties = {"a b" = {type = "string"}}, required = ["a b"]}'
    first.write_text(first.read_text() + f"charge_4xx = true\n{written}\n\n[solvency]\nstale_s = 60\n")
    second = tmp_path / "live" / "gateway.toml"
    ran = command(*flags, "--config", second, "--from", first, "--free", "/b", "--name", "Weather live")
    assert ran.code == 0, ran.err
    old, new = load_settings(first), load_settings(second)
    assert old.key.pubkey != new.key.pubkey
    assert (new.gateway.name, new.gateway.categories) == ("Weather live", ["weather"])
    assert new.solvency.stale_s == 60
    assert [(r.path, r.price_atomic, r.charge_4xx) for r in new.routes.routes] == [
        ("/a", 100_000, True),
        ("/b", 0, False),
    ]
    assert [route.input_schema for route in new.routes.routes] == [schema, None]


@pytest.mark.parametrize("text", ["routes = 5", 'upstream = "http://a"', "gateway = []", "solvency = 1"])
def test_an_offer_that_is_none_is_refused_by_name(
    command: Command, described: Path, tmp_path: Path, text: str
) -> None:
    offer = tmp_path / "offer.toml"
    offer.write_text(text)
    ran = command(
        *("init", "--json", "--offline", "--no-input", "--dry-run", "--config", tmp_path / "gateway.toml"),
        *("--network", described, "--vendor", VENDOR.pubkey, "--from", offer),
    )
    assert (ran.code, ran.error["error"]) == (2, "ConfigError")
    assert f"{text.partition(' ')[0]} must be a table" in ran.error["detail"]


def test_an_rpc_servers_token_may_be_in_its_query_and_a_url_that_is_none_is_named(
    command: Command, described: Path, tmp_path: Path
) -> None:
    flags = ["init", "--json", "--offline", "--no-input", "--dry-run", "--config", tmp_path / "gateway.toml"]
    flags += ["--network", described, "--vendor", VENDOR.pubkey, "--price", "/a=0.1", "--upstream"]
    ran = command(*flags, "http://127.0.0.1:9000", "--rpc-url", "https://rpc.example/?api-key=a-b/")
    assert ran.code == 0, ran.err
    assert tomllib.loads(ran.result["text"])["network"]["rpc_url"] == "https://rpc.example/?api-key=a-b/"
    for wrong in (
        "http://[::1",
        "http://127.0.0.1:9000/a b",
        "http://127.0.0.1:9000/\nx: y",
        "http://a/?b=c",
    ):
        ran = command(*flags, wrong)
        assert (ran.code, ran.error["error"]) == (2, "ConfigError")
        assert ran.error["detail"].startswith("--upstream must be an http(s) URL")


def test_prices_are_exact_and_anything_else_is_refused() -> None:
    assert parse_usdc("0.000001") == 1
    assert parse_usdc("12345.678901") == 12_345_678_901
    for text in ("", "0.0000001", "-1", "1e3", "1,5", ".5", "1.", "١", "NaN"):
        with pytest.raises(ConfigError):
            parse_usdc(text)


def test_routes_as_people_write_them() -> None:
    assert parse_route("/a=0.5") == OfferedRoute("GET", "/a", "exact", 500_000, "")
    assert parse_route("put  /a/b* = 0.5  two words") == OfferedRoute(
        "PUT", "/a/b", "prefix", 500_000, "two words"
    )
    assert parse_route("DELETE /a", free=True) == OfferedRoute("DELETE", "/a", "exact", 0, "")
    for text in ("a=1", "/a", "/a=0", "TRACE /a=1", "GET/a=1", "/a b=1"):
        with pytest.raises(ConfigError):
            parse_route(text)

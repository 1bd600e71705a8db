"""`machpay-gateway check`: each part found well, and each way in which it is not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from solders.hash import Hash

from devnet.offers import ATLAS, LEXICON
from machpay.chain.network import Network
from machpay.protocol.keys import SigningKey
from machpay_gateway.check import Finding, check
from tests.gateway.commands import Command, command
from tests.gateway.factories import configuration, make_settings, network
from tests.gateway.logs import running
from tests.gateway.network_standin import NetworkStandIn
from tests.gateway.servers import Upstream
from tests.support.chain import LocalChain, module_chain

__all__ = ["command", "module_chain"]

KEY = SigningKey(b"g" * 32)
Look = Callable[..., Any]


@pytest.fixture
def look(tmp_path: Path, net: NetworkStandIn, upstream: Upstream) -> Look:
    """Check a configuration with changes; the findings by their name."""

    async def look(key: SigningKey = KEY, **changes: Any) -> dict[str, Finding]:
        options = {"upstream_url": upstream.url, "network_url": net.url, **changes}
        settings = make_settings(tmp_path, key, **options)
        findings = await check(settings, key_file=tmp_path / "gateway.json")
        assert len({finding.what for finding in findings}) == len(findings)
        return {finding.what: finding for finding in findings}

    return look


async def test_a_registered_gateway_among_healthy_services_is_well(
    look: Look, local_chain: LocalChain
) -> None:
    findings = await look(
        local_chain.gateway(LEXICON),
        net=local_chain.network,
        vendor=local_chain.vendor(LEXICON),
        rpc_url=local_chain.rpc_url,
    )
    assert {what: finding.level for what, finding in findings.items() if what != "data_dir"} == dict.fromkeys(
        [
            *("configuration", "key_file", "log", "upstream", "relayer", "receiver", "clock"),
            *("domain", "program", "registration", "payout"),
        ],
        "ok",
    )


async def test_a_stranger_is_told_how_to_register(look: Look, local_chain: LocalChain) -> None:
    findings = await look(net=local_chain.network, rpc_url=local_chain.rpc_url)
    assert findings["registration"].level == "fail"
    assert "machpay-gateway register" in findings["registration"].detail


async def test_a_gateway_of_another_vendor_fails(look: Look, local_chain: LocalChain) -> None:
    findings = await look(
        local_chain.gateway(LEXICON),
        net=local_chain.network,
        vendor=local_chain.vendor(ATLAS),
        rpc_url=local_chain.rpc_url,
    )
    assert findings["registration"].level == "fail"
    assert str(local_chain.vendor(LEXICON)) in findings["registration"].detail


async def test_another_cluster_and_another_token_are_named(look: Look, local_chain: LocalChain) -> None:
    net = local_chain.network
    wrong_cluster = Network(net.program_id, net.mint, Hash(b"x" * 32))
    findings = await look(net=wrong_cluster, rpc_url=local_chain.rpc_url)
    assert (findings["domain"].level, "registration" in findings) == ("fail", False)
    wrong_token = Network(net.program_id, network().mint, net.domain)
    findings = await look(net=wrong_token, rpc_url=local_chain.rpc_url)
    assert (findings["domain"].level, findings["program"].level) == ("ok", "fail")


async def test_services_that_are_away_or_others_fail(
    look: Look, net: NetworkStandIn, upstream: Upstream
) -> None:
    findings = await look(network_url="http://127.0.0.1:1", upstream_url="http://127.0.0.1:1")
    for what in ("upstream", "relayer", "receiver", "chain"):
        assert findings[what].level == "fail", what
    # Nobody to compare the clock with.
    assert "clock" not in findings
    # The upstream is no relayer, whatever it answers.
    assert (await look(network_url=upstream.url))["relayer"].level == "fail"
    net.down = True
    assert (await look())["relayer"].level == "fail"


@pytest.mark.parametrize(
    ("offset_s", "level", "words"),
    [
        (0, "ok", "agrees"),
        (-15, "warn", "ahead of"),
        (15, "warn", "behind"),
        (45, "fail", "behind"),
    ],
)
async def test_the_clock_is_compared_with_the_relayers(
    look: Look, net: NetworkStandIn, offset_s: int, level: str, words: str
) -> None:
    net.clock_offset_s = offset_s
    clock = (await look())["clock"]
    assert (clock.level, words in clock.detail) == (level, True), clock


async def test_a_key_that_others_may_read_is_a_warning(look: Look, tmp_path: Path) -> None:
    assert (await look())["key_file"].level == "ok"
    (tmp_path / "gateway.json").chmod(0o644)
    warned = (await look())["key_file"]
    assert (warned.level, "chmod 600" in warned.detail) == ("warn", True)


async def test_a_running_gateways_log_is_seen_as_in_use(look: Look, tmp_path: Path) -> None:
    findings = await look()
    assert "not there yet" in findings["data_dir"].detail
    assert "none yet" in findings["log"].detail
    assert not (tmp_path / "data").exists()
    async with running(tmp_path / "data"):
        assert "is in use" in (await look())["log"].detail
    assert "is not in use" in (await look())["log"].detail


def test_local_asks_nobody_and_json_is_for_machines(command: Command, tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(configuration(tmp_path, key=KEY))
    ran = command("check", "--local", "--json", "--config", config)
    assert (ran.code, ran.result["ok"]) == (0, True)
    names = [finding["what"] for finding in ran.result["findings"]]
    assert names == ["configuration", "key_file", "data_dir", "log"]
    all_of_it = command("check", "--config", config)
    assert all_of_it.code == 1
    assert "FAIL relayer: " in all_of_it.out


def test_a_data_folder_that_cannot_be_written_fails(command: Command, tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    config.write_text(configuration(tmp_path, key=KEY))
    (tmp_path / "data").write_text("a file is in the way")
    ran = command("check", "--local", "--config", config)
    assert ran.code == 1
    assert f"FAIL data_dir: {tmp_path / 'data'}" in ran.out
    config.write_text(
        configuration(tmp_path, key=KEY).replace('data_dir = "data"', 'data_dir = "data/below"')
    )
    ran = command("check", "--local", "--config", config)
    assert (ran.code, "below cannot be made in" in ran.out) == (1, True)

"""The JSON-RPC envelope and what it says about requests that do not fit."""

import json
from typing import Any

import httpx
import pytest
from solders.keypair import Keypair

from contracts.localnet import codec
from tests.localnet.conftest import ChainProcess

KEY = str(Keypair().pubkey())
HASH = "11111111111111111111111111111111"


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("getBalance", []),
        ("getBalance", {"pubkey": KEY}),
        ("getBalance", ["not an address"]),
        ("getBalance", [7]),
        ("getBalance", [KEY, "finalized"]),
        ("getBalance", [KEY, {"commitment": "soon"}]),
        ("getBalance", [KEY, {"minContextSlot": -1}]),
        ("getAccountInfo", [KEY, {"encoding": "base64+zstd"}]),
        ("getAccountInfo", [KEY, {"encoding": "base64", "dataSlice": {"offset": 0}}]),
        ("getMultipleAccounts", [KEY]),
        ("getMultipleAccounts", [[KEY] * 101]),
        ("getProgramAccounts", [KEY, {"filters": {"dataSize": 1}}]),
        ("getProgramAccounts", [KEY, {"filters": [{"dataSize": True}]}]),
        ("getProgramAccounts", [KEY, {"filters": [{"memcmp": {"offset": 0, "bytes": "0OIl"}}]}]),
        ("getProgramAccounts", [KEY, {"filters": [{"size": 1}]}]),
        ("getProgramAccounts", [KEY, {"filters": [{"dataSize": 1}] * 5}]),
        ("getTokenAccountsByOwner", [KEY, {}]),
        ("getTokenAccountsByOwner", [KEY, {"mint": KEY}]),
        ("getTokenAccountsByOwner", [KEY, {"programId": KEY}]),
        ("getSignatureStatuses", ["x"]),
        ("getSignatureStatuses", [["x"]]),
        ("getSignatureStatuses", [[], {"searchTransactionHistory": 1}]),
        ("getTransaction", [KEY]),
        ("getTransaction", [str(Keypair().sign_message(b"")), {"commitment": "processed"}]),
        ("getSignaturesForAddress", [KEY, {"limit": 0}]),
        ("getSignaturesForAddress", [KEY, {"limit": 1001}]),
        ("isBlockhashValid", ["xyz"]),
        ("getFeeForMessage", ["AAAA"]),
        ("getFeeForMessage", [""]),
        ("getMinimumBalanceForRentExemption", [1.5]),
        ("getMinimumBalanceForRentExemption", [2**64]),
        ("getMinimumBalanceForRentExemption", [2**63]),
        ("requestAirdrop", [KEY, "1"]),
        ("requestAirdrop", [KEY, 2**63]),
        ("sendTransaction", []),
        ("sendTransaction", [7]),
        ("sendTransaction", [""]),
        ("sendTransaction", ["0OIl"]),
        ("sendTransaction", ["AAAA", {"encoding": "base64"}]),
        ("sendTransaction", ["A===", {"encoding": "base64"}]),
        ("sendTransaction", ["AA==", {"encoding": "utf8"}]),
        ("sendTransaction", ["A" * 1645, {"encoding": "base64"}]),
        ("simulateTransaction", ["AAAA", {"encoding": "base64"}]),
    ],
)
def test_parameters_that_do_not_fit_are_named(chain: ChainProcess, method: str, params: Any) -> None:
    answer = chain.call(method, params)
    assert set(answer) == {"jsonrpc", "error", "id"}
    assert answer["error"]["code"] == -32602
    assert answer["error"]["message"]


def test_unknown_methods_and_broken_envelopes(chain: ChainProcess) -> None:
    assert chain.call("getEverything", [])["error"] == {"code": -32601, "message": "Method not found"}
    for text in (b"{", b'"\xff"', b"[" * 100_000):
        assert chain.post(text).json() == {
            "jsonrpc": "2.0",
            "error": {"code": -32700, "message": "Parse error"},
            "id": None,
        }
    broken: list[Any] = [
        {"id": 1, "method": "getSlot"},
        {"jsonrpc": "2.0", "id": [], "method": "getSlot"},
        7,
        [],
        "getSlot",
    ]
    for body in broken:
        assert chain.post(body).json()["error"]["code"] == -32600


def test_a_batch_is_answered_in_order_and_notifications_are_not(chain: ChainProcess) -> None:
    calls: list[Any] = [
        {"jsonrpc": "2.0", "id": 1, "method": "getHealth"},
        {"jsonrpc": "2.0", "method": "getHealth"},
        {"jsonrpc": "2.0", "id": "two", "method": "nothing"},
        3,
        {"jsonrpc": "2.0", "id": None, "method": "getHealth", "params": []},
    ]
    answers = chain.post(calls).json()
    assert [
        (answer["id"], answer.get("result"), answer.get("error", {}).get("code")) for answer in answers
    ] == [
        (1, "ok", None),
        ("two", None, -32601),
        (None, None, -32600),
        (None, "ok", None),
    ]
    assert chain.post({"jsonrpc": "2.0", "method": "getHealth"}).status_code == 204


def test_the_slot_of_a_batch_is_one(chain: ChainProcess) -> None:
    calls = [
        {"jsonrpc": "2.0", "id": n, "method": "getSlot", "params": [{"commitment": "processed"}]}
        for n in range(50)
    ]
    assert len({answer["result"] for answer in chain.post(calls).json()}) == 1


def test_every_height_follows_the_commitment(chain: ChainProcess) -> None:
    levels = ("processed", "confirmed", "finalized")
    calls = [
        {"jsonrpc": "2.0", "id": level, "method": method, "params": [{"commitment": level}]}
        for method in ("getSlot", "getBlockHeight")
        for level in levels
    ]
    results = [answer["result"] for answer in chain.post(calls).json()]
    newest = results[0]
    assert results == [newest, newest - 1, newest - 4] * 2
    hashes = [chain.call("getLatestBlockhash", [{"commitment": level}])["result"] for level in levels]
    for latest in hashes:
        assert latest["value"]["lastValidBlockHeight"] == latest["context"]["slot"] + 150
        valid = chain.call("isBlockhashValid", [latest["value"]["blockhash"], {"commitment": "processed"}])
        assert valid["result"]["value"] is True
    assert chain.call("isBlockhashValid", [HASH])["result"]["value"] is False


def test_a_block_that_is_not_there_yet_has_no_time(chain: ChainProcess) -> None:
    slot = chain.call("getSlot", [{"commitment": "processed"}])["result"]
    assert isinstance(chain.call("getBlockTime", [slot])["result"], int)
    assert chain.call("getBlockTime", [slot + 10_000])["error"]["code"] == -32004


def test_health_and_metrics_are_served_beside_the_rpc(chain: ChainProcess) -> None:
    health = httpx.get(f"{chain.url}/health").json()
    assert (health["status"], health["service"]) == ("ok", "localnet")
    assert health["components"]["chain"]["genesis_hash"] == chain.endpoint["genesis_hash"]
    chain.call("getVersion", [])
    lines = httpx.get(f"{chain.url}/metrics").text.splitlines()
    assert 'machpay_localnet_rpc_calls_total{method="getVersion"} 1' in lines
    assert httpx.get(f"{chain.url}/nothing").status_code == 404
    assert httpx.get(chain.url).status_code == 405


def test_a_body_that_is_too_large_is_refused(chain: ChainProcess) -> None:
    assert chain.post(b" " * (4 * 1024 * 1024 + 1)).status_code == 413
    assert chain.call("getHealth", [])["result"] == "ok"


def test_large_numbers_are_exact(chain: ChainProcess) -> None:
    raw = chain.post(
        {"jsonrpc": "2.0", "id": 1, "method": "getAccountInfo", "params": [HASH, {"encoding": "base64"}]}
    )
    assert json.loads(raw.text)["result"]["value"]["rentEpoch"] in (0, 2**64 - 1)


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0\x01", b"hello", bytes(range(256))])
def test_base58_round_trips(data: bytes) -> None:
    assert codec.from_base58(codec.to_base58(data)) == data


def test_base58_agrees_with_solders() -> None:
    key = Keypair().pubkey()
    assert codec.to_base58(bytes(key)) == str(key)

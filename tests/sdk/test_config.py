"""Configuration fails loudly, names the setting and never shows a secret."""

import json

import pytest

from machpay import MachPayConfig
from machpay.client.config import DEFAULT_MAX_PRICE_ATOMIC
from machpay.client.errors import ConfigError
from tests.sdk.model import AGENT, GATEWAY, NETWORK, STRANGER

DEMO = {
    "api_url": "http://127.0.0.1:1",
    "rpc_url": "http://127.0.0.1:2",
    "relayer_url": "http://127.0.0.1:3",
    "network": NETWORK.caip2,
    "program_id": str(NETWORK.program_id),
    "mint": str(NETWORK.mint),
    "domain": str(NETWORK.domain),
    "gateways": [{"gateway": GATEWAY.pubkey, "vendor": STRANGER.pubkey, "url": "http://127.0.0.1:8402"}],
    "agents": [{"agent": AGENT.pubkey, "keypair_file": "agent-0.json"}],
}


@pytest.fixture
def demo(tmp_path):
    AGENT.save(tmp_path / "agent-0.json")
    path = tmp_path / "demo.json"
    path.write_text(json.dumps(DEMO))
    return path


@pytest.fixture
def env(demo):
    return {"MACHPAY_AGENT_SECRET": str(demo.parent / "agent-0.json"), "MACHPAY_NETWORK": str(demo)}


def test_from_demo_joins_the_network_as_its_agent(demo):
    config = MachPayConfig.from_demo(demo, agent=0)
    assert config.key.pubkey == AGENT.pubkey
    assert config.network == NETWORK
    assert config.gateways == ("http://127.0.0.1:8402",)
    assert config.pinned == {"http://127.0.0.1:8402": GATEWAY.pubkey}
    assert (config.rpc_url, config.relayer_url) == ("http://127.0.0.1:2", "http://127.0.0.1:3")
    assert config.max_price_atomic == DEFAULT_MAX_PRICE_ATOMIC


def test_from_demo_takes_absolute_key_files_and_overrides(demo, tmp_path):
    other = tmp_path / "elsewhere" / "key.json"
    STRANGER.save(other)
    demo.write_text(json.dumps({**DEMO, "agents": [{"agent": "x", "keypair_file": str(other)}]}))
    config = MachPayConfig.from_demo(str(demo), max_price_atomic=7, state_dir=tmp_path)
    assert (config.key.pubkey, config.max_price_atomic, config.state_dir) == (STRANGER.pubkey, 7, tmp_path)


def test_a_state_folder_may_be_given_as_text(demo, tmp_path):
    assert MachPayConfig.from_demo(demo, agent=0, state_dir=str(tmp_path)).state_dir == tmp_path


def test_from_demo_with_a_key_of_ones_own_needs_no_agents(demo):
    demo.write_text(json.dumps({**DEMO, "agents": []}))
    assert MachPayConfig.from_demo(demo, key=STRANGER).key is STRANGER


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (None, "cannot read"),
        ("{", "not JSON"),
        ("[]", "JSON object"),
        (json.dumps({**DEMO, "agents": []}), "agent number 0"),
        (json.dumps({**DEMO, "mint": "x"}), "mint"),
        (json.dumps({key: value for key, value in DEMO.items() if key != "domain"}), "domain"),
        (json.dumps({**DEMO, "gateways": [{"url": "http://x"}]}), "gateways"),
        (json.dumps({**DEMO, "gateways": 5}), "gateways"),
        (json.dumps({**DEMO, "agents": [{"keypair_file": "missing.json"}]}), "keypair_file"),
    ],
)
def test_a_description_that_cannot_be_used_is_named(demo, content, match):
    if content is None:
        demo.unlink()
    else:
        demo.write_text(content)
    with pytest.raises(ConfigError, match=match):
        MachPayConfig.from_demo(demo)


def test_from_env_reads_file_and_overrides(env, tmp_path):
    config = MachPayConfig.from_env(
        {
            **env,
            "SOLANA_RPC_URL": "http://127.0.0.1:9",
            "MACHPAY_API_URL": "http://127.0.0.1:8",
            "MACHPAY_MAX_PRICE_ATOMIC": "250",
            "MACHPAY_STATE_DIR": str(tmp_path / "state"),
        }
    )
    assert config.key.pubkey == AGENT.pubkey
    assert (config.rpc_url, config.api_url, config.relayer_url) == (
        "http://127.0.0.1:9",
        "http://127.0.0.1:8",
        "http://127.0.0.1:3",
    )
    assert (config.max_price_atomic, config.state_dir) == (250, tmp_path / "state")


@pytest.mark.parametrize("form", ["json", "base58"])
def test_from_env_takes_the_secret_itself(env, form):
    pair = AGENT.keypair()
    secret = json.dumps(list(bytes(pair))) if form == "json" else str(pair)
    assert MachPayConfig.from_env({**env, "MACHPAY_AGENT_SECRET": secret}).key.pubkey == AGENT.pubkey


def test_from_env_uses_the_process_environment(env, monkeypatch):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert MachPayConfig.from_env().network == NETWORK


@pytest.mark.parametrize("name", ["MACHPAY_AGENT_SECRET", "MACHPAY_NETWORK"])
@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_variable_is_named(env, name, value):
    changed = {key: text for key, text in env.items() if key != name}
    if value is not None:
        changed[name] = value
    with pytest.raises(ConfigError, match=f"{name} is not set"):
        MachPayConfig.from_env(changed)


@pytest.mark.parametrize("value", ["-1", "1.5", "ten", "1_000"])
def test_a_limit_that_is_no_whole_number_is_named(env, value):
    with pytest.raises(ConfigError, match="MACHPAY_MAX_PRICE_ATOMIC"):
        MachPayConfig.from_env({**env, "MACHPAY_MAX_PRICE_ATOMIC": value})


def test_a_wrong_secret_is_not_repeated_in_the_error(env):
    secret = str(AGENT.keypair())[:-4] + "zzzz"
    with pytest.raises(ConfigError) as raised:
        MachPayConfig.from_env({**env, "MACHPAY_AGENT_SECRET": secret})
    assert secret not in str(raised.value)
    assert raised.value.__cause__ is None


def test_the_secret_is_not_in_the_configs_text(demo):
    config = MachPayConfig.from_demo(demo)
    assert str(AGENT.keypair()) not in repr(config)
    assert str(list(bytes(AGENT.keypair()))) not in repr(config)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_price_atomic": -1},
        {"timeout_s": 0},
        {"max_connections": 0},
        {"resends": -1},
        {"pinned": {"http://x": "nobody"}},
    ],
)
def test_values_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        MachPayConfig(key=AGENT, network=NETWORK, **settings)


def test_from_env_reads_the_agents_budgets(env):
    env |= {
        "MACHPAY_CALL_BUDGET_ATOMIC": "1",
        "MACHPAY_DAY_BUDGET_ATOMIC": "2",
        "MACHPAY_VENDOR_BUDGET_ATOMIC": "3",
        "MACHPAY_ALLOWED_ORIGINS": "https://A.example, http://b.example:81",
    }
    budgets = MachPayConfig.from_env(env).budgets
    assert (budgets.per_call_atomic, budgets.per_day_atomic, budgets.per_vendor_atomic) == (1, 2, 3)
    assert budgets.allowed_origins == {"https://a.example:443", "http://b.example:81"}
    env["MACHPAY_DAY_BUDGET_ATOMIC"] = "much"
    with pytest.raises(ConfigError, match="MACHPAY_DAY_BUDGET_ATOMIC"):
        MachPayConfig.from_env(env)

"""The public clusters, compared with what the stock x402 package says of them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import x402

from machpay.chain.clusters import CLUSTERS, cluster_of
from tests.gateway.factories import network


@pytest.fixture(scope="module")
def constants() -> ModuleType:
    """x402's own; loaded from its file, because importing the package around it needs packages that we do not use."""
    path = Path(x402.__file__).parent / "mechanisms" / "svm" / "constants.py"
    spec = importlib.util.spec_from_file_location("svm_constants", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_usdc_is_where_x402_says_it_is(constants):
    assert str(CLUSTERS["mainnet"].usdc) == constants.USDC_MAINNET_ADDRESS
    assert str(CLUSTERS["devnet"].usdc) == constants.USDC_DEVNET_ADDRESS


def test_a_cluster_is_known_by_its_genesis(constants):
    mainnet, devnet = CLUSTERS["mainnet"], CLUSTERS["devnet"]
    assert cluster_of(mainnet.genesis) is mainnet
    assert f"solana:{str(mainnet.genesis)[:32]}" == constants.SOLANA_MAINNET_CAIP2
    assert f"solana:{str(devnet.genesis)[:32]}" == constants.SOLANA_DEVNET_CAIP2
    assert cluster_of(network().domain) is None

"""A client of the relayer that signs as anybody, and the process it talks to."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import msgspec
from django.core.management import call_command
from django.db import connection

from apps.ledger.selectors import trial_balance
from machpay.protocol.intents import Voucher
from machpay.protocol.keys import SigningKey
from machpay.protocol.settlements import ResolvedPayment, to_item
from machpay.protocol.signed_requests import sign_request
from machpay.protocol.x402 import voucher_json
from tests.support.chain import LocalChain
from tests.support.http import LOCAL
from tests.support.servers import Server, uvicorn

APP = "apps.payments.relayer.asgi:app"


@contextlib.contextmanager
def running_relayer(chain: LocalChain, log_dir: Path, **environment: str) -> Iterator[Server]:
    """A relayer process on the tests' database, following `chain` unless `environment` says otherwise."""
    network = {
        "SOLANA_RPC_URL": chain.rpc_url,
        "MACHPAY_PROGRAM_ID": str(chain.network.program_id),
        "USDC_MINT": str(chain.network.mint),
    }
    with uvicorn(APP, log_dir, network | environment) as server:
        yield server


@contextlib.contextmanager
def shared_relayer(chain: LocalChain, database: Any, log_dir: Path, **environment: str) -> Iterator[Server]:
    """One relayer for many tests, each of which brings its own agents; `database` is pytest-django's blocker. At the
    end the books balance, and the database is emptied."""
    chain.wait_until_final()
    with database.unblock():
        try:
            with running_relayer(chain, log_dir, **environment) as server:
                yield server
            assert [total.total_atomic for total in trial_balance() if total.total_atomic] == []
        finally:
            call_command("flush", interactive=False, verbosity=0)
            connection.close()


class RelayerClient:
    """Requests signed by `key`; what a busy chain did not answer in time is asked again, as the answer says. Use as a
    context manager."""

    def __init__(self, url: str, key: SigningKey, *, patience_s: float = 60.0) -> None:
        self.key = key
        self._patience_s = patience_s
        self.http = httpx.Client(base_url=url, **LOCAL)

    def __enter__(self) -> "RelayerClient":
        return self

    def __exit__(self, *_error: object) -> None:
        self.http.close()

    def post(self, target: str, body: object) -> httpx.Response:
        content = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return self._answer("POST", target, content)

    def get(self, target: str) -> httpx.Response:
        return self._answer("GET", target)

    def _answer(self, method: str, target: str, content: bytes = b"") -> httpx.Response:
        deadline = time.monotonic() + self._patience_s
        while True:
            headers = sign_request(self.key, method, target, content)
            answer = self.http.request(method, target, content=content, headers=headers)
            if "chain_unavailable" not in answer.text or time.monotonic() > deadline:
                return answer
            time.sleep(float(answer.headers["retry-after"]))

    def deliver(self, *payments: ResolvedPayment, vouchers: Sequence[Voucher] = ()) -> dict[str, Any]:
        """The answer of `POST /settlements`, which must be 200."""
        answer = self.post("/settlements", batch(self.key, *payments, vouchers=vouchers))
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result


def batch(
    gateway: SigningKey, *payments: ResolvedPayment, vouchers: Sequence[Voucher] = ()
) -> dict[str, Any]:
    """The body of `POST /settlements`."""
    return {
        "gateway_id": gateway.pubkey,
        "batch": [msgspec.to_builtins(to_item(payment)) for payment in payments],
        "vouchers": [voucher_json(voucher) for voucher in vouchers],
        "seq_from": payments[0].seq if payments else 0,
        "seq_to": payments[-1].seq if payments else 0,
    }

"""One RPC address that is two servers, as behind a balancer: the one that looks signatures up stands still."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import httpx

from devnet.services.ports import LOOPBACK


class Behind:
    """Forwards to `rpc_url`, except that `getSignatureStatuses` is answered as of `slot`, before anything landed."""

    def __init__(self, rpc_url: str, *, slot: int) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                call = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = httpx.post(rpc_url, json=call, timeout=30).json()
                if call["method"] == "getSignatureStatuses":
                    answer["result"] = {"context": {"slot": slot}, "value": [None] * len(call["params"][0])}
                body = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_arguments: object) -> None:
                pass

        self._server = ThreadingHTTPServer((LOOPBACK, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

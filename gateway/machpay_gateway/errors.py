"""What can go wrong inside a gateway.

GatewayError
├── ConfigError         the configuration cannot be used; the text names the setting
├── Refused             a command will not do it as asked; nothing was changed
├── LogError
│   ├── LogMismatch     the log in data_dir belongs to another gateway or network
│   ├── LogDamaged      bytes that were durable no longer read back: a person has to look
│   └── LogUnavailable  the disk refuses writes: paid traffic stops, free routes go on
├── UpstreamError       the vendor's server did not answer properly; `status` is what the client gets (502 or 504)
├── RelayerError        the relayer did not answer, or answered with an error status
└── RequestError        the client's request cannot be served; `status`, `code` and `detail` are for it
"""

from machpay.errors import MachPayError


class GatewayError(MachPayError):
    """Anything this package raises on purpose. Catch a narrower type where you can."""


class ConfigError(GatewayError):
    """A setting is missing, has the wrong type or contradicts another."""


class Refused(GatewayError):
    """What was asked for would destroy something, or the network refuses it."""


class LogError(GatewayError):
    """The log cannot be used."""


class LogMismatch(LogError):
    """The log was written by another key or for another network."""


class LogDamaged(LogError):
    """A record that must be readable is not. Starting would silently forget payments, so we do not."""


class LogUnavailable(LogError):
    """Nothing can be made durable now."""


class UpstreamError(GatewayError):
    """No usable answer from the upstream. `status` is 502, or 504 for a timeout."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail


class RelayerError(GatewayError):
    """No usable answer from the relayer or receiver. `status` is None when there was none at all."""

    def __init__(self, detail: str, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.retry_after_s = retry_after_s


class RequestError(GatewayError):
    """A request that is answered with a problem document instead of being served."""

    def __init__(
        self, status: int, code: str, detail: str, headers: tuple[tuple[bytes, bytes], ...] = ()
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers

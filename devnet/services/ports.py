"""Free TCP ports on loopback."""

import random
import socket

LOOPBACK = "127.0.0.1"
# Below those that systems hand out by themselves: no connection, and no server on "any" port, takes a port of these
# while the server that it was found for is still being started.
_OWN = range(20_000, 32_000)
# Tests seed the module's own generator, and processes that run side by side must not find the same ports.
_random = random.SystemRandom()


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if nothing listens there, else a port that is free.

    The port is not reserved: a server that finds it taken is started again on another one.
    """
    port = preferred or _random.choice(_OWN)
    while not _is_free(port):
        port = _random.choice(_OWN)
    return port


def reserve_port(preferred: int | None = None) -> socket.socket:
    """A listening socket on `preferred` if that is free, else on any port: nobody else can take the port until it is
    closed, which the caller does right before the server starts."""
    port = free_port(preferred)
    reservation = socket.socket()
    try:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind((LOOPBACK, port))
        # Only a listening socket keeps others away; a bound one shares the port with whoever reuses addresses.
        reservation.listen(1)
    except OSError:
        reservation.close()
        return reserve_port()
    return reservation


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As servers do: connections of the previous server in TIME_WAIT must not count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return True

"""Free TCP ports on loopback."""

import socket

LOOPBACK = "127.0.0.1"


def free_port(preferred: int | None = None) -> int:
    """Return `preferred` if nothing listens there, else a port the system calls free.

    The port is not reserved: a server that finds it taken is started again on another one.
    """
    if preferred and _is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


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

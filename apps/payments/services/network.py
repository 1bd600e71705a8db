"""Binding a database to one network, for ever."""

from solders.hash import Hash
from solders.pubkey import Pubkey

from apps.payments import models
from apps.payments.errors import NetworkMismatch
from machpay.chain.network import Network


def bound_network() -> Network | None:
    """The network this database belongs to, or None before its first use."""
    row = models.Network.objects.first()
    return None if row is None else _network(row)


def current_network() -> Network:
    """The network this database belongs to. Raises `NetworkMismatch` if it belongs to none yet."""
    network = bound_network()
    if network is None:
        raise NetworkMismatch("this database is not bound to a network yet; start the relayer or recon first")
    return network


def bind(network: Network) -> None:
    """Bind an unbound database to `network`; do nothing if it is bound to it already.

    Raises `NetworkMismatch` if it belongs to another genesis, program or mint: its channels, vouchers and
    balances would mean nothing here.
    """
    wanted = models.Network(
        domain=str(network.domain), program_id=str(network.program_id), mint=str(network.mint)
    )
    models.Network.objects.bulk_create([wanted], ignore_conflicts=True)
    stored = models.Network.objects.get()
    differences = [
        f"{name} {getattr(stored, name)}, configured {getattr(wanted, name)}"
        for name in ("domain", "program_id", "mint")
        if getattr(stored, name) != getattr(wanted, name)
    ]
    if differences:
        raise NetworkMismatch(
            "this database belongs to another network ("
            + "; ".join(differences)
            + "); use the database of this"
            " network, or reset chain and database together"
        )


def _network(row: models.Network) -> Network:
    return Network(
        program_id=Pubkey.from_string(row.program_id),
        mint=Pubkey.from_string(row.mint),
        domain=Hash.from_string(row.domain),
    )

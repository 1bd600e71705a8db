"""The aggregated voucher: what it accepts, what it binds, and what an agent may co-sign."""

import pytest
from solders.hash import Hash
from solders.pubkey import Pubkey

from machpay.protocol.aggregates import AGGREGATE_CHANNELS_MAX, Aggregate, ChannelTotal
from machpay.protocol.errors import MalformedError
from machpay.protocol.intents import Voucher, voucher_message
from machpay.protocol.keys import SigningKey

AGENT = SigningKey(bytes([1]) * 32)
DOMAIN, MINT = Hash(bytes([2]) * 32), Pubkey(bytes([3]) * 32)
FIRST, SECOND = Pubkey(bytes([4]) * 32), Pubkey(bytes([5]) * 32)
CONTEXT = bytes(16)


def aggregate(*totals: tuple[Pubkey, int], **changes) -> Aggregate:
    fields = {"domain": DOMAIN, "mint": MINT, "agent": AGENT.public, **changes}
    return Aggregate.of(**fields, totals=[ChannelTotal(*total) for total in totals])


def voucher(channel: Pubkey, cumulative: int, key: SigningKey = AGENT) -> Voucher:
    return Voucher(channel, cumulative, CONTEXT, key.sign(voucher_message(channel, cumulative, CONTEXT)))


def test_the_order_in_which_totals_are_given_does_not_matter():
    assert aggregate((FIRST, 1), (SECOND, 2)) == aggregate((SECOND, 2), (FIRST, 1))


@pytest.mark.parametrize(
    "other",
    [
        aggregate((FIRST, 2)),
        aggregate((SECOND, 1)),
        aggregate((FIRST, 1), (SECOND, 1)),
        aggregate((FIRST, 1), domain=Hash(bytes([9]) * 32)),
        aggregate((FIRST, 1), mint=Pubkey(bytes([9]) * 32)),
        aggregate((FIRST, 1), agent=Pubkey(bytes([9]) * 32)),
    ],
    ids=["cumulative", "channel", "count", "domain", "mint", "agent"],
)
def test_every_part_is_bound(other):
    signature = aggregate((FIRST, 1)).sign(AGENT)
    assert aggregate((FIRST, 1)).is_signed_by_agent(signature)
    assert not other.is_signed_by_agent(signature)


def test_channels_out_of_order_or_twice_are_refused():
    for totals in ([(SECOND, 1), (FIRST, 1)], [(FIRST, 1), (FIRST, 1)]):
        with pytest.raises(MalformedError, match="strictly ascending"):
            Aggregate(DOMAIN, MINT, AGENT.public, tuple(ChannelTotal(*total) for total in totals))


@pytest.mark.parametrize("count", [0, AGGREGATE_CHANNELS_MAX + 1])
def test_no_channels_and_too_many_are_refused(count):
    with pytest.raises(MalformedError, match="1 to 57 channels"):
        aggregate(*((Pubkey(bytes([n]) * 32), 1) for n in range(count)))


@pytest.mark.parametrize("cumulative", [-1, 2**64])
def test_amounts_outside_64_bits_are_refused(cumulative):
    with pytest.raises(MalformedError, match="64-bit"):
        aggregate((FIRST, cumulative))


def test_an_aggregate_covered_by_own_vouchers_authorises_nothing_new():
    total = aggregate((FIRST, 10), (SECOND, 20))
    assert total.covers([voucher(FIRST, 10), voucher(SECOND, 21)])
    assert total.covers([voucher(FIRST, 9), voucher(FIRST, 10), voucher(SECOND, 20)])


def test_a_missing_lower_or_forged_voucher_does_not_cover():
    total = aggregate((FIRST, 10), (SECOND, 20))
    stranger = SigningKey(bytes([9]) * 32)
    assert not total.covers([voucher(FIRST, 10)])
    assert not total.covers([voucher(FIRST, 10), voucher(SECOND, 19)])
    assert not total.covers([voucher(FIRST, 10), voucher(SECOND, 20, stranger)])
    assert not total.covers([])

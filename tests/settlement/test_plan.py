"""Planning: what shares a transaction, and what is not worth one."""

from dataclasses import replace

from solders.pubkey import Pubkey

from apps.payments.services.settlements import DueChannel
from apps.settlement.services.plan import plan
from machpay.chain.lookup_tables import LookupTable


def channel(agent: str = "alice", vendor: str = "vera", *, owes: int = 100) -> DueChannel:
    return DueChannel(
        address=str(Pubkey.new_unique()),
        agent=agent,
        gateway="gate",
        vendor=vendor,
        cumulative_atomic=owes + 50,
        context=bytes(16),
        signature=bytes(64),
        up_to_atomic=owes,
        settled_atomic=0,
    )


def test_nothing_due_plans_nothing() -> None:
    assert plan([], {"alice": 100}) == []


def test_two_channels_of_one_vendor_share_a_transaction_in_the_order_given() -> None:
    due = [channel(), channel(), channel()]
    plans = plan(due, {"alice": 300})
    assert [each.channels for each in plans] == [(due[0], due[1]), (due[2],)]


def test_vendors_never_share_a_transaction() -> None:
    due = [channel(vendor="vera"), channel(vendor="vito"), channel(vendor="vera")]
    plans = plan(due, {"alice": 300})
    assert [(each.vendor, each.channels) for each in plans] == [
        ("vera", (due[0], due[2])),
        ("vito", (due[1],)),
    ]


def test_a_bond_that_covers_a_part_is_planned_for_that_part() -> None:
    due = [channel(owes=100)]
    assert [each.channels for each in plan(due, {"alice": 1})] == [(due[0],)]


def test_a_bond_is_promised_to_the_first_and_not_twice() -> None:
    first, second, other = channel(owes=100), channel(owes=100), channel("bob", owes=100)
    plans = plan([first, second, other], {"alice": 100, "bob": 100})
    assert [each.channels for each in plans] == [(first, other)]


def test_what_a_bond_has_left_goes_to_the_next() -> None:
    first, second, third = channel(owes=100), channel(owes=100), channel(owes=100)
    plans = plan([first, second, third], {"alice": 101})
    assert [each.channels for each in plans] == [(first, second)]


def test_agents_without_a_bond_are_left_out() -> None:
    assert plan([channel()], {"alice": 0}) == []
    assert plan([channel()], {"alice": -5}) == []
    assert plan([channel()], {}) == []


def test_what_is_settled_already_does_not_use_the_bond_up() -> None:
    first = replace(channel(owes=100), settled_atomic=90)
    second = channel(owes=100)
    plans = plan([first, second], {"alice": 20})
    assert [each.channels for each in plans] == [(first, second)]


def table() -> LookupTable:
    return LookupTable(Pubkey.new_unique(), (Pubkey.new_unique(),))


def sizes(due: list[DueChannel], tables: dict[str, LookupTable], existing: list[str]) -> list[int]:
    plans = plan(due, {"alice": 100 * len(due)}, tables=tables, existing=existing)
    assert [each for part in plans for each in part.channels] == due
    return [len(each.channels) for each in plans]


def test_a_table_lets_five_existing_channels_share_a_transaction() -> None:
    due, one = [channel() for _ in range(11)], table()
    everyone = [each.address for each in due]
    assert sizes(due, dict.fromkeys(everyone, one), everyone) == [5, 5, 1]


def test_four_share_one_when_any_is_created_wherever_it_stands() -> None:
    due, one = [channel() for _ in range(5)], table()
    everyone = [each.address for each in due]
    for missing in range(4):
        existing = [each for index, each in enumerate(everyone) if index != missing]
        assert sizes(due, dict.fromkeys(everyone, one), existing) == [4, 1]
    assert sizes(due, dict.fromkeys(everyone, one), everyone[:4]) == [4, 1]
    assert sizes(due, dict.fromkeys(everyone, one), []) == [4, 1]


def test_a_transaction_draws_from_one_table() -> None:
    due, tables = [channel() for _ in range(4)], [table(), table()]
    drawn = {each.address: tables[index % 2] for index, each in enumerate(due[:3])}
    plans = plan(due, {"alice": 400}, tables=drawn, existing=[each.address for each in due])
    assert [(each.table, each.channels) for each in plans] == [
        (tables[0], (due[0], due[2])),
        (tables[1], (due[1],)),
        (None, (due[3],)),
    ]

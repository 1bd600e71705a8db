"""Events on disk: in order, bounded, and nothing lost or invented by a crash at any byte."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machpay_gateway.telemetry.spill import Spill

ROOM = 8 * 1024


def lines(first: int, count: int, size: int = 100) -> list[bytes]:
    return [b'{"n":%d,"pad":"%s"}' % (number, b"x" * size) for number in range(first, first + count)]


def drain(spill: Spill, batch: int = 7) -> list[bytes]:
    """Everything that waits, read and confirmed in batches."""
    found: list[bytes] = []
    while got := spill.read(batch, 1_000):
        found += got
        spill.done(got)
    return found


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*"))


def test_what_goes_in_comes_out_in_order_and_leaves_no_file(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", 64 * 1024)
    everything = lines(0, 100)
    for start in range(0, 100, 9):
        assert spill.append(everything[start : start + 9]) == 0
    assert spill.waiting == 100
    assert drain(spill) == everything
    assert (spill.waiting, spill.disk_bytes, files(tmp_path / "spill")) == (0, 0, [])


def test_reading_and_writing_take_turns(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", 64 * 1024)
    found, sent = [], 0
    for turn in range(30):
        spill.append(lines(turn * 5, 5))
        got = spill.read(4, 10_000)
        spill.done(got[:3])
        found += got[:3]
        sent += 5
    found += drain(spill)
    assert found == lines(0, sent)


def test_a_file_of_another_name_is_left_alone(tmp_path: Path) -> None:
    Spill(tmp_path, 64 * 1024).append(lines(0, 2))
    (tmp_path / "copy of 1.jsonl").write_bytes(b"{}\n")
    again = Spill(tmp_path, 64 * 1024)
    again.append(lines(2, 1))
    assert drain(again) == lines(0, 3)
    assert [path.name for path in files(tmp_path)] == ["copy of 1.jsonl"]


def test_files_that_an_operator_removes_are_said_and_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spill = Spill(tmp_path, ROOM)
    for start in range(0, 30, 10):
        spill.append(lines(start, 10))
    first, *_, last = files(tmp_path)
    assert first != last
    first.unlink()
    last.unlink()
    left = drain(spill)
    assert left == [line for line in lines(0, 30) if line in left]
    lost = sum(int(record.getMessage().partition(" events are lost")[0]) for record in caplog.records)
    assert (lost, len(caplog.records)) == (30 - len(left), 2)
    spill.append(lines(30, 1))
    assert drain(spill) == lines(30, 1)


def test_what_was_not_confirmed_is_there_after_a_crash(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", 64 * 1024)
    spill.append(lines(0, 10))
    spill.done(spill.read(4, 10_000))
    # The file's first lines come again: the receiver knows them by their ids.
    assert drain(Spill(tmp_path / "spill", 64 * 1024)) == lines(0, 10)


def test_a_new_process_writes_behind_what_it_found(tmp_path: Path) -> None:
    Spill(tmp_path / "spill", 64 * 1024).append(lines(0, 3))
    second = Spill(tmp_path / "spill", 64 * 1024)
    second.append(lines(3, 3))
    assert drain(Spill(tmp_path / "spill", 64 * 1024)) == lines(0, 6)


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 400))
def test_a_write_cut_off_anywhere_loses_at_most_its_own_lines(tmp_path_factory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("cut")
    spill = Spill(folder, 64 * 1024)
    spill.append(lines(0, 2))
    whole = files(folder)[0].read_bytes()
    spill.append(lines(2, 2))
    (path,) = files(folder)
    path.write_bytes(path.read_bytes()[: len(whole) + cut])
    after = Spill(folder, 64 * 1024)
    after.append(lines(9, 1))
    found = drain(after)
    assert found[:2] == lines(0, 2)
    assert found[-1:] == lines(9, 1)
    assert found[2:-1] == lines(2, 2)[: len(found) - 3]


def test_when_the_room_is_used_up_the_oldest_go_and_are_counted(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", ROOM)
    dropped = sum(spill.append(lines(start, 5)) for start in range(0, 200, 5))
    assert spill.disk_bytes <= ROOM
    assert dropped + spill.waiting == 200
    assert sum(path.stat().st_size for path in files(tmp_path / "spill")) <= ROOM
    assert drain(spill) == lines(dropped, 200 - dropped)


def test_more_at_once_than_there_is_room_for_keeps_the_latest(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", ROOM)
    dropped = spill.append(lines(0, 200))
    assert 0 < dropped < 200
    assert drain(spill) == lines(dropped, 200 - dropped)


def test_a_line_longer_than_all_the_room_is_not_taken_at_all(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", ROOM)
    assert spill.append(lines(0, 1, size=2 * ROOM)) == 1
    assert (spill.waiting, spill.disk_bytes) == (0, 0)


def test_a_line_longer_than_a_batch_is_read_alone(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "spill", 64 * 1024)
    spill.append([*lines(0, 1, size=5_000), *lines(1, 1)])
    assert drain(spill) == [*lines(0, 1, size=5_000), *lines(1, 1)]

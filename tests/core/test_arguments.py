"""Numbers and words on the command line: what cannot be meant is refused before anything happens."""

import pytest
from django.core.management import CommandError, call_command


@pytest.mark.parametrize(
    "line",
    [
        "recon_status --watch 0",
        "recon_status --watch -1",
        "recon_status --watch nan",
        "close_tables --idle-days -1",
        "close_tables --idle-days 99999999999",
        "archive_batches --older-than-days -1",
        "archive_batches --older-than-days inf",
        "settle --now --timeout nan",
        "settle --now --timeout soon",
    ],
)
def test_a_number_out_of_bounds_is_refused_by_name(line: str) -> None:
    command, *options = line.split()
    with pytest.raises(CommandError, match=f"argument {options[-2]}: {options[-1]} is no number between"):
        call_command(command, *options)


@pytest.mark.parametrize("note", ["", "  ", "x" * 301, "a\0b"])
def test_words_that_cannot_be_stored_are_refused(note: str) -> None:
    with pytest.raises(CommandError, match="argument --note: give 1 to 300 printable characters"):
        call_command("attribute_deposit", "1", "--user", "1", "--by", "ops", "--note", note)

"""The program's error numbers: one list in Rust, one in Python, and neither may change the other's meaning."""

import re

from machpay.chain.errors import PROGRAM_ERRORS
from tests.program.world import ROOT

REFERENCE = (ROOT / "docs" / "program.md").read_text()
SOURCE = ROOT / "contracts" / "program" / "src" / "error.rs"


def test_python_and_rust_name_the_same_errors_with_the_same_sentences() -> None:
    listed = re.findall(r'^    (\w+) = (0x[0-9a-f]+), "(.*)";$', SOURCE.read_text(), re.MULTILINE)
    rust = {int(code, 16): (name, text) for name, code, text in listed}
    assert rust == {code: (error.name, error.text) for code, error in PROGRAM_ERRORS.items()}


def test_the_reference_lists_every_error() -> None:
    listed = re.findall(
        r"^\| `(0x[0-9a-f]+)` \| (\w+) \| (.*?)(?: \(reserved: .*\))? \|$", REFERENCE, re.MULTILINE
    )
    documented = {int(code, 16): (name, text) for code, name, text in listed}
    assert documented == {code: (error.name, error.text) for code, error in PROGRAM_ERRORS.items()}


def test_numbers_ascend_from_0x100_and_names_and_sentences_are_distinct() -> None:
    assert list(PROGRAM_ERRORS) == sorted(PROGRAM_ERRORS)
    assert min(PROGRAM_ERRORS) == 0x100
    for attribute in ("name", "text"):
        assert len({getattr(error, attribute) for error in PROGRAM_ERRORS.values()}) == len(PROGRAM_ERRORS)


def test_the_briefs_numbers_keep_their_names() -> None:
    names = [PROGRAM_ERRORS[code].name for code in (0x100, 0x101, 0x102, 0x103)]
    assert names == ["InvalidSignature", "ExpiredIntent", "InsufficientBond", "NonceReplay"]

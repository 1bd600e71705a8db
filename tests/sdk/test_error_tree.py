"""The errors an agent catches are drawn as a tree, in the module and in the documentation, and the drawing is true."""

import inspect
import re
from pathlib import Path

from machpay.client import errors
from machpay.client.errors import ClientError

DOCS = Path(__file__).parents[2] / "docs" / "sdk.md"
LINE = re.compile(r"^(?P<indent>[│ ]*)(?:[├└]── )(?P<name>\w+)")


def drawn(text: str) -> dict[str, str]:
    """Name -> the name it is drawn below, in the tree that starts with ClientError."""
    parents, above = {"ClientError": ""}, ["ClientError"]
    for line in text[text.index("\nClientError\n") + 1 :].splitlines()[1:]:
        found = LINE.match(line)
        if found is None:
            if not line.startswith("│"):
                break
            continue
        depth = len(found["indent"]) // 4 + 1
        above[depth:] = [found["name"]]
        parents[found["name"]] = above[depth - 1]
    return parents


def classes() -> dict[str, type[ClientError]]:
    return {
        name: each
        for name, each in vars(errors).items()
        if inspect.isclass(each) and issubclass(each, ClientError)
    }


def test_every_error_is_drawn_below_what_it_is_a_kind_of():
    tree, found = drawn(errors.__doc__ or ""), classes()
    assert set(tree) == set(found)
    for name, parent in tree.items():
        assert not parent or issubclass(found[name], found[parent]), f"{name} is no {parent}"
        assert not parent or found[parent] in found[name].__bases__


def test_the_documentation_draws_the_same_tree():
    assert drawn(DOCS.read_text()) == drawn(errors.__doc__ or "")


def test_every_error_says_what_it_means():
    assert [name for name, each in classes().items() if not inspect.getdoc(each)] == []

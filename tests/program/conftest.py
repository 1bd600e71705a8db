"""Worlds for the program's tests."""

import pytest

from tests.program.world import World, done


@pytest.fixture
def bare() -> World:
    """The program deployed, nothing initialised."""
    return World()


@pytest.fixture
def world(bare: World) -> World:
    """A world whose bond and vault exist."""
    done(bare.initialize_bond())
    return bare

from __future__ import annotations

import pytest
from support import FAMILIES, ToyTask, tiny_policy

import poise_lab as pl


@pytest.fixture(scope="session")
def policies():
    """A tiny random policy per family. Read only: a test that changes weights makes its own."""
    return {family: tiny_policy(family) for family in FAMILIES}


@pytest.fixture(params=FAMILIES)
def policy(request, policies):
    return policies[request.param]


@pytest.fixture(scope="session")
def qwen(policies):
    return policies["qwen3"]


@pytest.fixture(scope="session")
def bundled():
    """The bundled policy. Read only."""
    return pl.load_policy("thinker")


@pytest.fixture(scope="session")
def sums():
    """A few short chain sums; their prompts differ in length."""
    return pl.load_task("chain_sum").sample(7, seed=3)


@pytest.fixture(scope="session")
def toys():
    return ToyTask().sample(6, seed=0)

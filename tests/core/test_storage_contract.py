"""Every promise of the storage protocol, over every backend."""

from __future__ import annotations

import pytest
from datashard_testkit.contract import CHECKS, Check

from datashard_core.storage.base import Storage
from datashard_core.storage.probe import _prove, check_conditional


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(any_storage: Storage, check: Check) -> None:
    assert isinstance(any_storage, Storage)
    check(any_storage)


def test_the_store_is_proved_to_keep_conditions(any_storage: Storage) -> None:
    from datashard_core.clock import SYSTEM_CLOCK

    check_conditional(any_storage)
    _prove(any_storage, SYSTEM_CLOCK)
    assert [info.key for info in any_storage.list("_datashard/probe")] == []

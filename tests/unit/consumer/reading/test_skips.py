"""The values of ``--skip`` name a transaction or a message."""

from __future__ import annotations

import pytest

from rowcast.consumer.events.position import message_target
from rowcast.consumer.reading.skips import Skips
from rowcast.shared.errors import ConfigurationError


def test_transactions_and_messages() -> None:
    skips = Skips(["701", message_target(("shop.public.item", 3), 17), "shop.public.item:3:18", "shop.transaction:0:1"])
    assert skips.transactions == {"701"}
    assert skips.offsets(("shop.public.item", 3)) == {17, 18}
    assert skips.offsets(("shop.transaction", 0)) == {1}
    assert skips.offsets(("shop.public.item", 0)) == set()


@pytest.mark.parametrize(
    "target", ["", "shop.public.item:3", "a:b:c", "shop.public.item:3:-1", "shop.public.item:3:1:2"]
)
def test_another_form_is_refused(target: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--skip .*give the id of a transaction, or TOPIC:PARTITION:OFFSET"):
        Skips([target])

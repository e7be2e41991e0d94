"""What libraries say of themselves is none of a person's concern; what they say else, is."""

import logging

import pytest

from moesubnet.host.log import quiet_transformers


def test_torchaos_deprecated_enums_are_not_told_to_who_loads_a_model(
    caplog: pytest.LogCaptureFixture,
) -> None:
    quiet_transformers()
    registry = logging.getLogger("torch.utils._pytree")
    registry.warning("%s is an Enum subclass and is now natively supported by torch.compile", "E")
    registry.warning("something else")
    assert [record.message for record in caplog.records] == ["something else"]

"""What is said where timm is not installed."""

import sys

import pytest

from detres.integrations.timm import TimmBackbone


def test_without_timm_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        TimmBackbone("resnet18")

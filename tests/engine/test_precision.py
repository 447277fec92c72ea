"""Number formats."""

import pytest
import torch

from detres.engine.precision import Precision


def test_unknown_format():
    with pytest.raises(ValueError, match="'half' is unknown"):
        Precision("half", torch.device("cpu"))


@pytest.mark.parametrize("name", ["float32", "bfloat16", "float16"])
def test_products_are_computed_in_the_format(name):
    precision = Precision(name, torch.device("cpu"))
    with precision.autocast():
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == getattr(torch, name)
    assert precision.gradient_scale() == ({"gradient_scale": 65536.0} if name == "float16" else {})

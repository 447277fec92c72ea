"""Constants are made once, and serve training although made in inference."""

import torch

from detres.structures.constants import constant


def test_made_once_per_device() -> None:
    cpu = torch.device("cpu")
    assert constant((1.0, 2.5), cpu) is constant([1.0, 2.5], cpu)
    assert constant((1.0, 2.5), cpu).tolist() == [1.0, 2.5]
    assert constant((1.0, 2.5), torch.device("meta")).is_meta


def test_made_in_inference_used_in_training() -> None:
    with torch.inference_mode():
        value = constant((3.0, 4.25), torch.device("cpu"))
    x = torch.ones(2, requires_grad=True)
    (x * value).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [3.0, 4.25]

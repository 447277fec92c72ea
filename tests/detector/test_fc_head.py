"""The fully connected box head: its dropout works in training only."""

import torch

from detres.detector.box_head import FCHead


def test_no_regions() -> None:
    assert FCHead(2, 3, channels=5, dropout=0.5)(torch.zeros(0, 2, 3, 3)).shape == (0, 5)


def test_dropout_in_training_alone() -> None:
    head = FCHead(2, 3, num_fcs=1, channels=4000, dropout=0.25)
    with torch.no_grad():
        head.fc6.weight.zero_()
        head.fc6.bias.fill_(3.0)
        regions = torch.ones(2, 2, 3, 3)
        assert (head.eval()(regions) == 3).all()
        hidden = head.train()(regions)
    assert set(hidden.unique().tolist()) == {0.0, 4.0}  # what stays is scaled up by 1 / 0.75
    assert abs((hidden == 0).float().mean().item() - 0.25) < 0.03
    plain = FCHead(2, 3, num_fcs=1, channels=8).train()
    assert torch.equal(plain(regions), plain.eval()(regions))

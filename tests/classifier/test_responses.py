"""measured_responses against sums over the layers' outputs, computed layer by layer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detres.backbones import VGG, CifarResNet, ResNet
from detres.backbones.interface import Backbone
from detres.classifier.responses import LayerResponse, measured_responses


class ThreeLayers(nn.Module):
    """3x3 with norm, 1x1 with norm, 3x3 without a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.conv3 = nn.Conv2d(4, 2, 3)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu_(self.bn1(self.conv1(x)))
        x = F.relu_(self.bn2(self.conv2(x)))
        return self.relu(self.conv3(x))


def randomize(network: nn.Module) -> nn.Module:
    """Norms that differ from the identity; in evaluation mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
    return network.eval()


def test_no_images() -> None:
    with measured_responses(ThreeLayers()) as responses, pytest.raises(ValueError, match="conv1 has not been run"):
        responses[0].std()


def test_no_layers() -> None:
    with pytest.raises(ValueError, match="no 3x3 convolution"), measured_responses(nn.Conv2d(3, 3, 1)):
        pass


def test_three_layers_by_hand() -> None:
    network = randomize(ThreeLayers())
    images = torch.randn(5, 3, 6, 7)
    first = network.bn1(network.conv1(images))
    last = network.conv3(F.relu(network.bn2(network.conv2(F.relu(first)))))
    with torch.no_grad(), measured_responses(network) as responses:
        network(images)
    assert [response.name for response in responses] == ["conv1", "conv3"]
    for response, expected in zip(responses, (first, last), strict=True):
        assert response.std() == pytest.approx(expected.detach().double().std(correction=0).item(), rel=1e-5)


def test_batches_of_unequal_size_add_up_to_the_whole() -> None:
    whole = torch.randn(10, 2, 3, 3) * 3 + torch.arange(10)[:, None, None, None] + 100
    response = LayerResponse("layer")
    for part in (whole[:1], whole[1:1], whole[1:8], whole[8:]):
        if len(part):
            response.add(part)
    assert response.std() == pytest.approx(whole.double().std(correction=0).item(), rel=1e-5)


@pytest.mark.parametrize("norm", ["batch", "frozen_batch", "group", "none"])
@pytest.mark.parametrize("shortcut", ["A", "B", "none"])
def test_a_cifar_net_layer_by_layer(norm: str, shortcut: str) -> None:
    network = randomize(CifarResNet(20, shortcut=shortcut, norm=norm))
    images = torch.randn(3, 3, 16, 16)
    expected = []
    x = network.bn1(network.conv1(images))
    expected.append(x)
    x = F.relu(x)
    for stage in network.stages():
        for block in stage:
            expected.append(block.bn1(block.conv1(x)))
            expected.append(block.bn2(block.conv2(F.relu(expected[-1]))))
            x = F.relu(expected[-1] + (block.downsample(x) if block.downsample is not None else 0))
    with torch.no_grad(), measured_responses(network) as responses:
        network(images)
    assert len(responses) == 19  # the depth less the fully connected layer
    assert responses[0].name == "conv1" and responses[-1].name == "layer3.2.conv2"
    got = torch.tensor([response.std() for response in responses])
    torch.testing.assert_close(got, torch.tensor([map_.std(correction=0).item() for map_ in expected]))


@pytest.mark.parametrize(
    ("backbone", "layers"),
    [(ResNet(18), 16), (ResNet(50), 16), (ResNet(18, deep_stem=True), 19), (VGG(16), 13), (VGG(11, norm="batch"), 8)],
    ids=["18", "50", "deep stem", "VGG-16", "VGG-11 with norms"],
)
def test_the_3x3_layers_of_other_networks(backbone: Backbone, layers: int) -> None:
    assert isinstance(backbone, nn.Module)
    randomize(backbone)
    with torch.no_grad(), measured_responses(backbone) as responses:
        backbone(torch.randn(1, 3, 32, 32))
    assert len(responses) == layers
    assert all(response.std() > 0 for response in responses)


def test_the_network_computes_the_same_and_is_left_as_it_was() -> None:
    network = randomize(CifarResNet(8))
    before = copy.deepcopy(network.state_dict())
    modules = [(name, id(module)) for name, module in network.named_modules()]
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = network(images)
        with measured_responses(network):
            found = network(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)  # unlike `expected`, not folded into the convs
    assert [(name, id(module)) for name, module in network.named_modules()] == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_a_network_that_has_diverged() -> None:
    network = randomize(ThreeLayers())
    with torch.no_grad(), measured_responses(network) as responses:
        network(torch.full((1, 3, 6, 6), torch.inf))
    with pytest.raises(ValueError, match="conv1 are not finite: the network has diverged"):
        responses[0].std()

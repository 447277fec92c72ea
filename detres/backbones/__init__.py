"""Networks from pixels to feature maps: ResNet and its relatives, VGG, and the feature pyramid on top of them."""

from detres.backbones.cifar_resnet import CifarResNet
from detres.backbones.fpn import FPN, BackboneWithFPN
from detres.backbones.interface import Backbone, FeatureSpec
from detres.backbones.resnet import ResNet, conv5_stage
from detres.backbones.vgg import VGG

__all__ = ["FPN", "VGG", "Backbone", "BackboneWithFPN", "CifarResNet", "FeatureSpec", "ResNet", "conv5_stage"]

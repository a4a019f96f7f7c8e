"""Small OVeNets and toy bases that the tests of OVeNet share."""

import torch
from torch import nn

from segfocus.backbone import LiteBackbone, build_backbone
from segfocus.methods.base import Base, BaseMaps
from segfocus.methods.bases import FoRNetBase
from segfocus.methods.fornet import FoRNet
from segfocus.methods.hrnet import HRNet
from segfocus.methods.light import LightBase
from segfocus.methods.ovenet import OVeNet
from segfocus.ops.resample import pad_to_multiple
from segfocus.output import logit_channels


def light_base(classes: int) -> LightBase:
    return LightBase(build_backbone("test_resnet", pretrained=False), classes, channels=16)


def build_light(classes: int) -> OVeNet:
    return OVeNet(light_base(classes), classes)


def build_fornet(classes: int) -> OVeNet:
    return OVeNet(FoRNetBase(FoRNet(LiteBackbone(), classes)), classes, trunk="convs", bound="radial", iterations=1)


def build_hrnet(classes: int) -> OVeNet:
    """As the paper has it: a second path from stage 4 on."""
    return OVeNet(HRNet("hrnet_w18_small", classes, pretrained=False), classes, trunk="stage4")


def build_borrowing(classes: int) -> OVeNet:
    return awake(build_fornet(classes), 0.3)


def build_frozen(classes: int) -> OVeNet:
    return OVeNet(light_base(classes), classes, trunk="convs", frozen=True)


def build_every_other_choice(classes: int) -> OVeNet:
    return OVeNet(
        light_base(classes),
        classes,
        trunk="convs",
        units="normalized",
        bound="radial",
        fusion="probabilities",
        iterations=1,
        frozen=True,
    )


class Toy(Base):
    """Cells of `stride` pixels; logits and features are 1x1 convolutions of the cells' colours; can branch."""

    def __init__(
        self, classes: int, *, stride: int = 4, channels: int = 8, feature_stride: int = 0, auxiliary: bool = False
    ):
        super().__init__()
        self.num_classes, self.stride, self.feature_channels = classes, stride, channels
        self.feature_stride = feature_stride or stride
        self.branch_stages = (4,)
        self.features, self.norm = nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels)
        self.classify = nn.Conv2d(channels, logit_channels(classes), 1)
        self.region = nn.Conv2d(channels, logit_channels(classes), 1) if auxiliary else None
        self.auxiliary_weights = {"region": 0.4} if auxiliary else {}

    def maps(self, image, branch_stage=None) -> BaseMaps:
        image = pad_to_multiple(image, 32, 32)
        features = self.norm(self.features(nn.functional.avg_pool2d(image, self.stride)))
        auxiliary = {} if self.region is None else {"region": self.region(features)}
        fine = nn.functional.avg_pool2d(features, self.feature_stride // self.stride)
        return BaseMaps(self.classify(features), fine, auxiliary, () if branch_stage is None else (features,))

    def branch(self, stage: int) -> nn.Module:
        return Take() if stage == 4 else super().branch(stage)


class Take(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, shared: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.scale * shared[0]


def awake(network: OVeNet, spread: float = 1.0) -> OVeNet:
    """The same network with a head that says something."""
    torch.manual_seed(7)
    nn.init.normal_(network.head[-1].weight, std=spread)
    nn.init.normal_(network.head[-1].bias, std=0.1)
    return network


def fixed(network: OVeNet, x: float, y: float, trust: float) -> OVeNet:
    """The same network with one offset (before the bound) and confidence everywhere."""
    nn.init.zeros_(network.head[-1].weight)
    network.head[-1].bias.data = torch.tensor([x, y, trust])
    return network


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())

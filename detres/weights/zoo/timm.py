"""timm's ResNets, ResNeXts and wide ResNets, its variants C and D and one with group norm among them.

Source: timm 1.0's pretrained_cfg (files, licences, how each is tested) and, for the results, its
results/results-imagenet.csv. A file's name ends with the first digits of its sha256; the hub's files tell none.

Left out: what detres does not build (anti-aliasing, attention, other depths and stems), resnet50.bamboo, which has no
classes, and timm's copies of torchvision's files (tv_in1k, tv2_in1k), which stand under torchvision/.
"""

from typing import NamedTuple

from detres.weights.zoo.entry import Entry, Metric, resnet_settings, sha256_in

_RELEASES = "https://github.com/huggingface/pytorch-image-models/releases/download/v0.1-"
_SOURCES = {
    "first": f"{_RELEASES}weights/",
    "rsb": f"{_RELEASES}rsb-weights/",
    "tpu": f"{_RELEASES}tpu-weights/",
    "gluon": "https://github.com/rwightman/pytorch-pretrained-gluonresnet/releases/download/v0.1/",
    "semi": "https://dl.fbaipublicfiles.com/semiweaksupervision/model_files/",
    "wsl": "https://download.pytorch.org/models/",
    "hub": "https://huggingface.co/timm/",
}
_NON_COMMERCIAL = ("semi", "wsl")
_HALF = tuple(f"model.pixels.{key}=[127.5, 127.5, 127.5]" for key in ("mean", "std"))
_NOTES = (
    "trained by a recipe of its own: this configuration says the network and the test",
    "timm resizes the images with bicubic interpolation in its test",
)


class _Group(NamedTuple):
    """Files of one place that are tested alike: the crop's side, and its share of the resized image's side."""

    source: str
    crop: int
    share: float


# Model (without "_in1k"), top-1, file (without ".pth").
_TABLE = {
    _Group("first", 224, 0.875): """
resnet50.am 78.998 resnet50_am-6c502b37
""",
    _Group("first", 288, 0.95): """
resnet18d.ra2 73.794 resnet18d_ra2-48a79e06
resnet34.bt 76.480 resnet34-43635321
resnet34d.ra2 78.436 resnet34d_ra2-f8dcfcaf
resnet50.bt 79.640 rw_resnet50-86acaeed
resnet50.ra 79.836 resnet50_ra-85ebb6e5
resnet50.ram 79.976 resnet50_ram-a26f946b
resnet50d.ra2 81.356 resnet50d_ra2-464e36ba
resnext50_32x4d.ra 80.698 resnext50_32x4d_ra-d733960d
resnext50d_32x4d.bt 80.664 resnext50d_32x4d-103e99f8
wide_resnet50_2.racm 82.280 wide_resnet50_racm-8234f177
""",
    _Group("first", 320, 1.0): """
resnet101d.ra2 83.016 resnet101d_ra2-2803ffab
resnet152d.ra2 83.684 resnet152d_ra2-5cac0439
""",
    _Group("rsb", 224, 0.95): """
resnet18.a3 68.254 resnet18_a3_0-40c531c8
resnet34.a3 72.970 resnet34_a3_0-a20cabb6
resnet50.a3 78.048 resnet50_a3_0-59cae1ef
resnet50d.a3 78.722 resnet50d_a3_0-403fdfad
resnet101.a3 79.814 resnet101_a3_0-1db14157
resnet152.a3 80.546 resnet152_a3_0-134d4688
resnext50_32x4d.a3 79.268 resnext50_32x4d_a3_0-3e450271
""",
    _Group("rsb", 224, 1.0): """
resnet50.a1h 80.676 resnet50_a1h2_176-001a1197
""",
    _Group("rsb", 288, 0.95): """
resnet50_gn.a1h 81.216 resnet50_gn_a1h2-8fe6c4d0
""",
    _Group("rsb", 288, 1.0): """
resnet18.a1 73.158 resnet18_a1_0-d63eafa0
resnet18.a2 72.372 resnet18_a2_0-b61bd467
resnet34.a1 77.918 resnet34_a1_0-46f8f793
resnet34.a2 77.158 resnet34_a2_0-82d47d71
resnet50.a1 81.214 resnet50_a1_0-14fe96d1
resnet50.a2 80.772 resnet50_a2_0-a2746f79
resnet50.b1k 80.706 resnet50_b1k-532a802a
resnet50.b2k 80.454 resnet50_b2k-1ba180c1
resnet50.c1 80.912 resnet50_c1-5ba5e060
resnet50.c2 80.870 resnet50_c2-d01e05b2
resnet50.d 80.972 resnet50_d-f39db8af
resnet50d.a1 81.450 resnet50d_a1_0-e20cff14
resnet50d.a2 81.164 resnet50d_a2_0-a3adc64d
resnet101.a1 82.322 resnet101_a1_0-cdcb52a9
resnet101.a1h 82.778 resnet101_a1h-36d3f2aa
resnet101.a2 82.236 resnet101_a2_0-6edb36c7
resnet152.a1 82.732 resnet152_a1_0-2eee8a7a
resnet152.a1h 83.450 resnet152_a1h-dc400468
resnet152.a2 82.608 resnet152_a2_0-b4c6978f
resnext50_32x4d.a1 81.466 resnext50_32x4d_a1_0-b5a91a1d
resnext50_32x4d.a1h 82.014 resnext50_32x4d_a1h-0146ab0a
resnext50_32x4d.a2 81.304 resnext50_32x4d_a2_0-efc76add
""",
    _Group("tpu", 288, 1.0): """
resnext101_64x4d.c1 83.156 resnext101_64x4d_c-0d0e0cc0
""",
    _Group("hub", 288, 1.0): """
resnet18d.ra4_e3600_r224
resnet34.ra4_e3600_r224
resnet50d.ra4_e3600_r224
""",
    _Group("gluon", 224, 0.875): """
resnet18.gluon 70.838 gluon_resnet18_v1b-0757602b
resnet34.gluon 74.578 gluon_resnet34_v1b-c6d82d59
resnet50.gluon 77.580 gluon_resnet50_v1b-0ebe02e2
resnet50c.gluon 78.012 gluon_resnet50_v1c-48092f55
resnet50d.gluon 79.078 gluon_resnet50_v1d-818a1b1b
resnet101.gluon 79.310 gluon_resnet101_v1b-3b017079
resnet101c.gluon 79.542 gluon_resnet101_v1c-1f26822a
resnet101d.gluon 80.426 gluon_resnet101_v1d-0f9c8644
resnet152.gluon 79.694 gluon_resnet152_v1b-c1edb0dd
resnet152c.gluon 79.910 gluon_resnet152_v1c-a3bb0b98
resnet152d.gluon 80.476 gluon_resnet152_v1d-bd354e12
resnext50_32x4d.gluon 79.360 gluon_resnext50_32x4d-e6a097c1
resnext101_32x4d.gluon 80.340 gluon_resnext101_32x4d-b253c8c4
resnext101_64x4d.gluon 80.600 gluon_resnext101_64x4d-f9a8e184
""",
    _Group("semi", 224, 0.875): """
resnet18.fb_ssl_yfcc100m_ft 72.594 semi_supervised_resnet18-d92f0530
resnet18.fb_swsl_ig1b_ft 73.282 semi_weakly_supervised_resnet18-118f1556
resnet50.fb_ssl_yfcc100m_ft 79.234 semi_supervised_resnet50-08389792
resnet50.fb_swsl_ig1b_ft 81.182 semi_weakly_supervised_resnet50-16a12f1b
resnext50_32x4d.fb_ssl_yfcc100m_ft 80.338 semi_supervised_resnext50_32x4-ddb3e555
resnext50_32x4d.fb_swsl_ig1b_ft 82.174 semi_weakly_supervised_resnext50_32x4-72679e44
resnext101_32x4d.fb_ssl_yfcc100m_ft 80.924 semi_supervised_resnext101_32x4-dc43570a
resnext101_32x4d.fb_swsl_ig1b_ft 83.232 semi_weakly_supervised_resnext101_32x4-3f87e46b
resnext101_32x8d.fb_ssl_yfcc100m_ft 81.606 semi_supervised_resnext101_32x8-2cfe2f8b
resnext101_32x8d.fb_swsl_ig1b_ft 84.302 semi_weakly_supervised_resnext101_32x8-b4712904
resnext101_32x16d.fb_ssl_yfcc100m_ft 81.842 semi_supervised_resnext101_32x16-15fffa57
resnext101_32x16d.fb_swsl_ig1b_ft 83.336 semi_weakly_supervised_resnext101_32x16-f3559a9c
""",
    _Group("wsl", 224, 0.875): """
resnext101_32x8d.fb_wsl_ig1b_ft 82.698 ig_resnext101_32x8-c38310e5
resnext101_32x16d.fb_wsl_ig1b_ft 84.166 ig_resnext101_32x16-c6f796b0
resnext101_32x32d.fb_wsl_ig1b_ft 85.098 ig_resnext101_32x32-e4b90b00
""",
}


def entries() -> list[Entry]:
    """All of them."""
    return [_entry(group, *row.split()) for group, rows in _TABLE.items() for row in rows.strip().splitlines()]


def _entry(group: _Group, model: str, percent: str | None = None, file: str | None = None) -> Entry:
    model = f"{model}_in1k"
    url = _SOURCES[group.source] + (f"{file}.pth" if file else f"{model}/resolve/main/model.safetensors")
    is_free = group.source not in _NON_COMMERCIAL
    return Entry(
        name=f"timm/{model}",
        url=url,
        format="timm",
        kind="classifier",
        dataset="ImageNet" if is_free else "ImageNet, after other images",
        config="imagenet_r50.yaml",
        overrides=(
            *resnet_settings(model.partition(".")[0]),
            *(_HALF if group.source == "hub" else ()),
            f"data.eval_transforms.0.short=[{int(group.crop / group.share)}]",
            f"data.eval_transforms.1.size={group.crop}",
        ),
        checksum=sha256_in(url),
        metric=Metric("top-1", float(percent)) if percent else None,
        licence="Apache-2.0" if is_free else "CC BY-NC 4.0 (not for commercial use)",
        notes=_NOTES if is_free else _NOTES[:1],
    )

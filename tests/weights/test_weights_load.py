"""Loading state dicts into whole models: architecture checks, and heads matched by class names."""

import pytest
import torch
from torch import Tensor, nn

from detres.weights import WeightsError, load_weights

ANIMALS = ("cat", "dog", "horse")
MIXED = ("person", "dog", "cat", "zebra")


class _Predictor(nn.Module):
    def __init__(self, classes: int, background: str, agnostic: bool, width: int) -> None:
        super().__init__()
        self.background = background
        self.cls_score = nn.Linear(width, classes + 1)
        self.bbox_pred = nn.Linear(width, 4 * (1 if agnostic else classes + (background == "first")))


def _detector(classes: int, background: str = "last", agnostic: bool = False, width: int = 5) -> nn.Module:
    """A model with the names of a detector and nothing else."""
    model = nn.Module()
    model.backbone = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width))
    model.roi_heads = nn.Module()
    model.roi_heads.box_predictor = _Predictor(classes, background, agnostic, width)
    return model


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def _class_rows(model: nn.Module, label: int | None) -> tuple[Tensor, Tensor]:
    """The classification row and the box rows of one label (None: the background), whatever the layout."""
    predictor = model.roi_heads.box_predictor
    first = predictor.background == "first"
    if label is None:
        row = 0 if first else len(predictor.cls_score.weight) - 1
        return predictor.cls_score.weight[row], predictor.cls_score.bias[row]
    boxes = predictor.bbox_pred.weight.unflatten(0, (-1, 4))
    return predictor.cls_score.weight[label + first], boxes[label + first]


def test_nothing_to_load_is_an_error() -> None:
    with pytest.raises(WeightsError, match="another architecture"):
        load_weights(_detector(2), {}, source="a.pt")
    with pytest.raises(WeightsError, match=r"a\.pt: nothing could be loaded"):
        load_weights(_detector(2), {"elsewhere": torch.zeros(2)}, strict=False, source="a.pt")


def test_same_architecture_loads_every_tensor() -> None:
    source, model = _detector(3), _detector(3)
    report = load_weights(model, _copy(source), class_names=ANIMALS, source_class_names=ANIMALS)
    for key, tensor in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor), key
    assert report.keys("skipped", "missing", "rows") == []
    assert report.kept_classes == report.initial_classes == ()
    assert "10 loaded" in report.summary()


@pytest.mark.parametrize("there", ["first", "last"])
@pytest.mark.parametrize("here", ["first", "last"])
def test_rows_follow_class_names_in_every_layout(there: str, here: str) -> None:
    source, model = _detector(3, there), _detector(4, here)
    fresh = [tuple(t.clone() for t in _class_rows(model, label)) for label in range(4)]
    report = load_weights(model, _copy(source), class_names=MIXED, source_class_names=ANIMALS)
    for label, name in enumerate(MIXED):
        expected = _class_rows(source, ANIMALS.index(name)) if name in ANIMALS else fresh[label]
        for got, want in zip(_class_rows(model, label), expected, strict=True):
            assert torch.equal(got, want), name
    for got, want in zip(_class_rows(model, None), _class_rows(source, None), strict=True):
        assert torch.equal(got, want)
    assert report.kept_classes == ("dog", "cat")
    assert report.initial_classes == ("person", "zebra")
    assert "classes re-initialised: 2 (person, zebra)" in report.table()


def test_equally_many_classes_in_another_order_are_not_copied_by_position() -> None:
    source, model = _detector(3), _detector(3)
    report = load_weights(model, _copy(source), class_names=ANIMALS[::-1], source_class_names=ANIMALS)
    for label in range(3):
        assert torch.equal(_class_rows(model, label)[1], _class_rows(source, 2 - label)[1])
    assert report.kept_classes == ANIMALS[::-1]


def test_no_common_class_leaves_the_whole_head_initialised() -> None:
    source, model = _detector(2), _detector(2)
    before = _copy(model)
    report = load_weights(model, _copy(source), class_names=("a", "b"), source_class_names=("c", "d"))
    assert torch.equal(model.state_dict()["backbone.0.weight"], source.backbone[0].weight)
    for key in report.keys("skipped"):
        assert key.startswith("roi_heads.") and torch.equal(model.state_dict()[key], before[key])
    assert len(report.keys("skipped")) == 4
    assert "no class in common" in report.table()
    assert report.initial_classes == ("a", "b")


def test_unknown_names_match_by_position_only_for_equally_many_classes() -> None:
    source, same, more = _detector(3, "first"), _detector(3, "last"), _detector(4)
    load_weights(same, _copy(source), class_names=ANIMALS)
    assert torch.equal(_class_rows(same, 1)[1], _class_rows(source, 1)[1])
    report = load_weights(more, _copy(source), class_names=MIXED)
    assert len(report.keys("skipped")) == 4
    assert "3 classes in the file, 4 in the model" in report.table()


def test_ambiguous_names_match_nothing() -> None:
    source, model = _detector(3), _detector(2)
    names = ("crane", "crane", "dog")
    report = load_weights(model, _copy(source), class_names=("crane", "dog"), source_class_names=names)
    assert report.kept_classes == ("dog",)


def test_class_agnostic_boxes_follow_without_names() -> None:
    source, model, specific = _detector(3, agnostic=True), _detector(4, agnostic=True), _detector(4)
    load_weights(model, _copy(source), class_names=MIXED, source_class_names=ANIMALS)
    assert torch.equal(model.roi_heads.box_predictor.bbox_pred.weight, source.roi_heads.box_predictor.bbox_pred.weight)
    report = load_weights(specific, _copy(source), class_names=MIXED, source_class_names=ANIMALS)
    assert "class-agnostic in the file, per class in the model" in report.table()


def test_one_class() -> None:
    source, model = _detector(1, "first"), _detector(1, "last")
    report = load_weights(model, _copy(source), class_names=("cell",), source_class_names=("cell",))
    assert torch.equal(_class_rows(model, 0)[1], _class_rows(source, 0)[1])
    assert not report.keys("skipped", "missing")


def test_classifier_rows_follow_class_names() -> None:
    source, model = nn.Module(), nn.Module()
    source.fc, model.fc = nn.Linear(4, 3), nn.Linear(4, 4)
    report = load_weights(model, _copy(source), class_names=MIXED, source_class_names=ANIMALS)
    assert torch.equal(model.fc.weight[1], source.fc.weight[1])
    assert torch.equal(model.fc.bias[2], source.fc.bias[0])
    assert report.keys("rows") == ["fc.weight", "fc.bias"]


def test_another_architecture_names_shapes_and_leaves_the_model_alone() -> None:
    model, other = _detector(3, width=5), _detector(3, width=6)
    before = _copy(model)
    with pytest.raises(WeightsError, match=r"x\.pt: .*backbone\.0\.weight is 6x3x3x3 in the file, 5x3x3x3 in the"):
        load_weights(model, _copy(other), source="x.pt")
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])


def test_missing_and_left_over_tensors_are_another_architecture_unless_told() -> None:
    model, state = _detector(3), _copy(_detector(3))
    state["backbone.9.weight"] = state.pop("backbone.0.bias")
    with pytest.raises(WeightsError, match=r"0 of another shape, 1 missing, 1 left over.*backbone\.0\.bias is not in"):
        load_weights(model, state)
    report = load_weights(model, state, strict=False)
    assert report.keys("missing") == ["backbone.0.bias"]
    assert report.keys("skipped") == ["backbone.9.weight"]


def test_step_counters_of_norms_do_not_matter() -> None:
    model, state = _detector(3), _copy(_detector(3))
    del state["backbone.1.num_batches_tracked"]
    load_weights(model, state)


def test_one_by_one_convolution_as_linear_layer() -> None:
    model, source = nn.Linear(4, 2), nn.Conv2d(4, 2, 1)
    report = load_weights(model, _copy(source))
    assert torch.equal(model.weight, source.weight.flatten(1))
    assert report.keys("reshaped") == ["weight"]


def test_half_precision_weights_keep_the_models_type() -> None:
    source, model = _detector(3), _detector(4)
    state = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in _copy(source).items()}
    load_weights(model, state, class_names=MIXED, source_class_names=ANIMALS)
    assert all(p.dtype == torch.float32 for p in model.parameters())


VOC = ["aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"]
VOC += ["horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"]
COCO_OF_VOC = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}


@pytest.mark.parametrize("towards_voc", [True, False])
def test_classes_of_voc_and_coco_meet_under_either_name(towards_voc: bool) -> None:
    coco = [*(COCO_OF_VOC.get(name, name) for name in reversed(VOC)), "zebra"]
    there, here = (coco, VOC) if towards_voc else (VOC, coco)
    source, model = _detector(len(there), "first"), _detector(len(here))
    report = load_weights(model, _copy(source), class_names=here, source_class_names=there)
    assert list(report.kept_classes) == [name for name in here if name != "zebra"]
    for label, name in enumerate(here):
        other = name if name in there else {**COCO_OF_VOC, **{v: k for k, v in COCO_OF_VOC.items()}}.get(name)
        if other is not None:
            for got, want in zip(_class_rows(model, label), _class_rows(source, there.index(other)), strict=True):
                assert torch.equal(got, want), name


def test_the_very_name_goes_before_one_that_means_the_same() -> None:
    source, model = _detector(2), _detector(3)
    report = load_weights(
        model, _copy(source), class_names=("Sofa", "couch", "Potted_Plant"), source_class_names=("couch", "pottedplant")
    )
    assert report.kept_classes == ("couch", "Potted_Plant") and report.initial_classes == ("Sofa",)
    assert torch.equal(_class_rows(model, 1)[1], _class_rows(source, 0)[1])

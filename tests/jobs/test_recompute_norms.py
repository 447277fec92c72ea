"""The recompute-norms command on the workshop's tiny classifier and detector."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detres import wiring
from detres.config import config_from_dict, config_to_dict
from detres.engine.checkpoint import load_checkpoint, save_checkpoint
from detres.weights import load_backbone, read_state_dict
from tests.jobs.conftest import Outcome, Workshop

Detres = Callable[..., Outcome]


def test_a_missing_checkpoint(detres: Detres, tmp_path: Path) -> None:
    outcome = detres("recompute-norms", "--weights", tmp_path / "none.pt", "--output", tmp_path / "new.pt")
    assert outcome.code == 1 and "none.pt" in outcome.err


def test_statistics_of_the_training_set(detres: Detres, workshop: Workshop, tmp_path: Path) -> None:
    source, target = workshop.runs / "pretrain" / "best.pt", tmp_path / "new.pt"
    outcome = detres("recompute-norms", "--weights", source, "--output", target, "--evaluate")
    assert outcome.code == 0, outcome.err
    assert "top1" in outcome.out and "->" in outcome.out and str(target) in outcome.out
    old, new = load_checkpoint(source), load_checkpoint(target)
    assert [new[key] for key in ("kind", "config", "class_names", "ema")] == [
        *(old[key] for key in ("kind", "config", "class_names")),
        None,
    ]
    before = old["ema"] or old["model"]
    changed = {key for key, tensor in new["model"].items() if not torch.equal(tensor, before[key])}
    assert changed == {key for key in before if key.endswith(("running_mean", "running_var"))}

    # The first norm's, from all training images at once: without random transforms it does not matter in which order.
    config = config_from_dict(new["config"])
    model, config, _ = wiring.model_from_checkpoint(target)
    dataset = wiring.build_train_dataset(config)
    count = -(-len(dataset) // config.train.batch_size)
    stream = wiring.build_train_loader(config, dataset).stream(0)
    maps = []
    for _ in range(count):
        images = next(stream).images
        maps.append(model.backbone.conv1(model.pixels(images)).double())
    values = torch.cat(maps).transpose(0, 1).flatten(1)
    torch.testing.assert_close(new["model"]["backbone.bn1.running_mean"].double(), values.mean(1), rtol=1e-4, atol=1e-5)
    variance = values.var(1, correction=0)
    torch.testing.assert_close(new["model"]["backbone.bn1.running_var"].double(), variance, rtol=1e-4, atol=1e-5)


def test_a_detector_starts_from_them_with_frozen_norms(detres: Detres, workshop: Workshop, tmp_path: Path) -> None:
    target = tmp_path / "new.pt"
    outcome = detres(
        "recompute-norms", "--weights", workshop.runs / "pretrain" / "best.pt", "--output", target, "--images", 8
    )
    assert outcome.code == 0 and "of 8 training images" in outcome.out
    _, config, names = wiring.model_from_checkpoint(workshop.runs / "tiny" / "best.pt")
    settings = config_to_dict(config)
    settings["model"]["backbone"] |= {"norm": "frozen_batch", "weights": str(target)}
    detector = wiring.build_model(config_from_dict(settings), len(names))
    load_backbone(detector, read_state_dict(target))
    wanted, found = read_state_dict(target).state_dict, detector.state_dict()
    for norm in ("bn1", "layer2.1.bn2", "layer2.0.downsample.1"):
        for part in ("running_mean", "running_var", "weight", "bias"):
            assert torch.equal(found[f"backbone.body.{norm}.{part}"], wanted[f"backbone.{norm}.{part}"])


def test_a_detectors_own_norms(detres: Detres, workshop: Workshop, tmp_path: Path) -> None:
    outcome = detres(
        "recompute-norms", "--weights", workshop.runs / "tiny" / "best.pt", "--output", tmp_path / "new.pt"
    )
    assert outcome.code == 0, outcome.err
    assert load_checkpoint(tmp_path / "new.pt")["kind"] == "detector"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", 0], "--images: got 0"),
        (["model.dropout=0.1"], "the network of a checkpoint cannot be changed"),
        (["data.train.0.root=digits/classify/nowhere"], "nowhere"),
        (["data.no_such_key=1"], "data.no_such_key"),
    ],
)
def test_what_does_not_fit(
    detres: Detres, workshop: Workshop, tmp_path: Path, arguments: list[object], message: str
) -> None:
    source = workshop.runs / "pretrain" / "best.pt"
    outcome = detres("recompute-norms", "--weights", source, "--output", tmp_path / "new.pt", *arguments)
    assert outcome.code == 1 and message in outcome.err
    assert not (tmp_path / "new.pt").exists()


def test_a_data_set_class_is_imported_only_when_trusted(workshop: Workshop, detres: Detres, tmp_path: Path) -> None:
    state = load_checkpoint(workshop.runs / "pretrain" / "best.pt")
    state["config"]["data"]["train"] = {"type": "os:mkdir", "args": {"path": str(tmp_path / "was here")}}
    save_checkpoint(tmp_path / "evil.pt", state)
    outcome = detres("recompute-norms", "--weights", tmp_path / "evil.pt", "--output", tmp_path / "new.pt")
    assert outcome.code == 1 and "os:mkdir" in outcome.err and "--trust-code" in outcome.err
    assert not (tmp_path / "was here").exists()


def test_the_checkpoint_itself_is_not_overwritten(detres: Detres, workshop: Workshop) -> None:
    source = workshop.runs / "pretrain" / "best.pt"
    outcome = detres("recompute-norms", "--weights", source, "--output", source)
    assert outcome.code == 1 and "another name" in outcome.err

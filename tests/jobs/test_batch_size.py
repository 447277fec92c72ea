"""train.batch_size: auto, from the configuration to the run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detres import wiring
from detres.config import ConfigError, LoadedConfig, config_to_dict, load_config
from detres.engine.checkpoint import load_checkpoint
from detres.jobs import batch_size
from detres.jobs.batch_size import with_batch_size
from tests.jobs.conftest import Outcome, Workshop

Detres = Callable[..., Outcome]
AUTO = ("train.batch_size=auto", "train.reference_batch_size=4")
CPU = torch.device("cpu")


def load(path: Path, *overrides: str) -> LoadedConfig:
    return load_config(path, [*AUTO, *overrides])


@pytest.fixture
def loaded(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> LoadedConfig:
    monkeypatch.setenv("DETRES_DATASETS", str(workshop.data))
    return load(workshop.config)


def test_a_number_stays(workshop: Workshop, loaded: LoadedConfig) -> None:
    plain = load_config(workshop.config)
    assert with_batch_size(plain, wiring.build_train_dataset(plain.config), CPU, fits=lambda n: False) is plain


@pytest.mark.parametrize(("room", "accumulate"), [(1, 4), (2, 2), (3, 2), (4, 1), (100, 1)])
def test_the_reference_batch_in_as_few_parts_as_fit(
    loaded: LoadedConfig, capsys: pytest.CaptureFixture[str], room: int, accumulate: int
) -> None:
    dataset = wiring.build_train_dataset(loaded.config)
    found = with_batch_size(loaded, dataset, CPU, fits=lambda images: images <= room)
    assert (found.config.train.batch_size, found.config.train.accumulate) == (4, accumulate)
    assert found.origins["train.batch_size"] == found.origins["train.accumulate"] == "auto"
    expected = config_to_dict(loaded.config)
    expected["train"] |= {"batch_size": 4, "accumulate": accumulate}
    assert config_to_dict(found.config) == expected, "nothing else changes"
    said = capsys.readouterr().out
    assert "trying images of 80x80 on cpu" in said
    assert f"4 images per step = {accumulate} x {4 // accumulate} (train.accumulate={accumulate})" in said
    loader = wiring.build_train_loader(found.config, dataset)
    assert len(next(loader.stream(0))) == 4 // accumulate and loader.steps_per_epoch == 9 / 4


def test_nothing_fits(loaded: LoadedConfig) -> None:
    dataset = wiring.build_train_dataset(loaded.config)
    with pytest.raises(ValueError, match="not even one image fits into the memory of cpu, at 80x80.*bfloat16"):
        with_batch_size(loaded, dataset, CPU, fits=lambda images: False)


@pytest.mark.parametrize(("free", "accumulate"), [(1e12, 1), (1.0, None)])
@pytest.mark.parametrize("kind", ["detector", "classifier"])
def test_memory_is_asked_by_real_steps(
    workshop: Workshop, loaded: LoadedConfig, monkeypatch: pytest.MonkeyPatch, kind: str, free: float, accumulate: int
) -> None:
    if kind == "classifier":
        loaded = load(workshop.pretrain_config, "train.ema={decay: 0.9}")
    dataset = wiring.build_train_dataset(loaded.config)
    monkeypatch.setattr(batch_size, "free_host_memory", lambda: free)
    if accumulate is None:
        with pytest.raises(ValueError, match="not even one image"):
            with_batch_size(loaded, dataset, CPU)
    else:
        assert with_batch_size(loaded, dataset, CPU).config.train.accumulate == accumulate


def test_an_unreadable_image_is_no_trouble_yet(workshop: Workshop, loaded: LoadedConfig, tmp_path: Path) -> None:
    loaded = load(workshop.pretrain_config)
    dataset = wiring.build_train_dataset(loaded.config)

    class Spoilt:
        class_names = dataset.class_names

        def __len__(self) -> int:
            return len(dataset)

        def read(self, index: int) -> object:
            if index == 0:
                raise batch_size.ImageError("truncated")
            return dataset.read(index)  # type: ignore[union-attr]

    found = with_batch_size(loaded, Spoilt(), CPU, fits=lambda n: True)  # type: ignore[arg-type]
    assert found.config.train.batch_size == 4


def test_a_run_keeps_its_numbers(
    workshop: Workshop, detres: Detres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "_memory", lambda *_: lambda images: images <= 2)
    arguments = ("train", "--config", workshop.config, *AUTO, f"output={tmp_path / 'run'}")
    outcome = detres(*arguments, "train.steps=1")
    assert outcome.code == 0, outcome.err
    assert "train.batch_size: auto: 4 images per step = 2 x 2 (train.accumulate=2), as few parts as" in outcome.out
    assert "instead of" not in outcome.out, "neither rate nor length is scaled"
    written = load_config(tmp_path / "run" / "config.yaml").config.train
    assert (written.batch_size, written.accumulate) == (4, 2)
    assert "batch_size: 4" in (tmp_path / "run" / "config.yaml").read_text().replace("  # auto", "# auto")
    state = load_checkpoint(tmp_path / "run" / "last.pt")
    assert (state["config"]["train"]["batch_size"], state["config"]["train"]["accumulate"]) == (4, 2)

    monkeypatch.setattr(batch_size, "_memory", lambda *_: lambda images: True)  # another machine
    outcome = detres(*arguments, "--resume")
    assert outcome.code == 0 and "= 2 x 2 (train.accumulate=2), as in the run so far" in outcome.out, outcome.err
    assert load_checkpoint(tmp_path / "run" / "last.pt")["progress"]["step"] == 3
    assert load_config(tmp_path / "run" / "config.yaml").config.train.accumulate == 2

    detector = detres("eval", "--weights", tmp_path / "run" / "best.pt", "--output", tmp_path / "eval")
    assert detector.code == 0, detector.err


def test_a_run_of_another_batch_is_asked_anew(loaded: LoadedConfig, workshop: Workshop) -> None:
    dataset = wiring.build_train_dataset(loaded.config)
    eight = load(workshop.config, "train.reference_batch_size=8")
    found = with_batch_size(eight, dataset, CPU, checkpoint=workshop.runs / "tiny" / "last.pt", fits=lambda n: n <= 2)
    assert (found.config.train.batch_size, found.config.train.accumulate) == (8, 4)
    four = with_batch_size(loaded, dataset, CPU, checkpoint=workshop.runs / "tiny" / "last.pt", fits=lambda n: n <= 2)
    assert (four.config.train.batch_size, four.config.train.accumulate) == (4, 1), "that of the run"


def test_the_rate_finder_takes_auto_too(
    workshop: Workshop, detres: Detres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_size, "_memory", lambda *_: lambda images: images <= 1)
    outcome = detres("find-lr", "--config", workshop.config, *AUTO, "--steps", 10, "--output", tmp_path)
    assert outcome.code == 0 and "= 4 x 1 (train.accumulate=4)" in outcome.out, outcome.err


def test_settings_that_do_not_go_with_auto(workshop: Workshop) -> None:
    with pytest.raises(ConfigError, match="train.batch_size: got auto without reference_batch_size"):
        load_config(workshop.config, ["train.batch_size=auto"])
    with pytest.raises(ConfigError, match="train.accumulate: got 2 with batch_size auto, expected 1"):
        load_config(workshop.config, [*AUTO, "train.accumulate=2"])
    for wrong, text in (
        ("atuo", "'atuo', expected a whole number or auto; did you mean auto?"),
        ("-1", "-1, expected"),
    ):
        with pytest.raises(ConfigError, match=f"train.batch_size: got {text}".replace("?", r"\?")):
            load_config(workshop.config, [f"train.batch_size={wrong}"])


def test_what_needs_a_number_says_so(workshop: Workshop, loaded: LoadedConfig, detres: Detres, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train.batch_size: got auto, expected a number here"):
        wiring.build_train_loader(loaded.config, wiring.build_train_dataset(loaded.config))
    best = workshop.runs / "tiny" / "best.pt"
    outcome = detres("recompute-norms", "--weights", best, "--output", tmp_path / "new.pt", *AUTO)
    assert outcome.code == 1 and "set it by train.batch_size=N" in outcome.err and not (tmp_path / "new.pt").exists()

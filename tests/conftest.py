"""Fixtures shared by all tests: where real data and reference numbers are, and a quiet, seeded torch."""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # the tests' tensors are small: on 2 cores the suite is a third faster than with 2 threads


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets (DETRES_DATASETS), for tests that need photographs."""
    root = os.environ.get("DETRES_DATASETS")
    if root is None or not (Path(root) / "coco").is_dir():
        pytest.skip("needs real data: set DETRES_DATASETS to a folder that holds coco/, VOCdevkit/, eval/ ...")
    return Path(root).resolve()


@pytest.fixture(scope="session")
def golden(real_data: Path) -> Path:
    """The folder of reference numbers of other implementations (DETRES_GOLDEN)."""
    folder = Path(os.environ.get("DETRES_GOLDEN", real_data.parent / "reference" / "golden"))
    if not folder.is_dir():
        pytest.skip(f"needs reference numbers: {folder} does not exist; set DETRES_GOLDEN")
    return folder

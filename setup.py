"""Packaging of detres: `pip install .` for use, `pip install -e ".[test]"` for work on it."""

from pathlib import Path

from setuptools import find_packages, setup

CONFIGS = ["detres.configs", "detres.configs.base", "detres.configs.paper"]
README = Path(__file__).with_name("README.md")

setup(
    name="detres",
    version="0.1.0",
    description="Object detection: a ResNet, pretrained on classification, feeds a Faster R-CNN detector",
    long_description=README.read_text(encoding="utf-8") if README.is_file() else "",
    long_description_content_type="text/markdown",
    python_requires=">=3.10",
    # The YAML files of configs/ travel as the package folder detres/configs, so that an installed
    # `detres train --config coco_r50.yaml` finds them from any folder.
    packages=[*find_packages(include=["detres", "detres.*"]), *CONFIGS],
    package_dir={package: package.removeprefix("detres.").replace(".", "/") for package in CONFIGS},
    package_data={"detres": ["py.typed", "weights/imagenet_ids.txt"], **dict.fromkeys(CONFIGS, ["*.yaml"])},
    install_requires=[
        "torch>=2.6",
        "torchvision>=0.21",
        "numpy>=1.26",
        "pillow>=10.1",
        "PyYAML>=6.0",
        "pydantic>=2.7",
        "pycocotools>=2.0.8",
        "albumentations>=2.0.8,<2.1",  # MIT; its successor has another licence
        "opencv-python-headless>=4.9,<5",  # albumentations 2.0 does not know the next
        "scikit-learn>=1.4",
        "scipy>=1.11",
        "matplotlib>=3.8",
        "rich>=13.7",
        "tensorboard>=2.16",
        "safetensors>=0.4.3",
    ],
    extras_require={
        "test": [
            "pytest>=8.0",
            "hypothesis>=6.100",
            "ruff>=0.8",
            "mypy>=1.13",
            "import-linter>=2.1",
            "types-PyYAML",
            "setuptools>=70.1",
            "timm>=1.0",  # with transformers: what detres.integrations are tested with
            "transformers>=4.40",
        ],
    },
    entry_points={"console_scripts": ["detres=detres.cli:main"]},
)

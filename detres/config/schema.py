"""The root of the configuration: what a YAML file may say."""

from typing import Annotated

from pydantic import Field, model_validator

from detres.config.data import DataSettings
from detres.config.fields import Settings
from detres.config.model import ClassifierSettings, FasterRCNNSettings
from detres.config.train import EvalSettings, TrainSettings


class Config(Settings):
    """A whole run: the model, its data, how it is trained and how it is judged."""

    model: Annotated[FasterRCNNSettings | ClassifierSettings, Field(discriminator="type")]
    data: DataSettings
    train: TrainSettings
    eval: EvalSettings = EvalSettings()
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = "auto"  # auto, cpu, cuda, cuda:1, ...
    output: str = "runs/{name}"  # the run directory; {name} is the name of the config file

    @model_validator(mode="after")
    def _task_and_metric_agree(self) -> "Config":
        classifies = isinstance(self.model, ClassifierSettings)
        if classifies != (self.eval.metric == "classification"):
            wanted = "classification" if classifies else "coco or voc"
            raise ValueError(f"eval.metric must be {wanted} for model.type {self.model.type}, got {self.eval.metric}")
        return self

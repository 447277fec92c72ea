"""What changes while a model is trained, as one state to write and to go back to."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from detres.engine.checkpoint import load_model_state
from detres.engine.ema import WeightAverage
from detres.engine.optimizer import load_optimizer_state, optimizer_state
from detres.engine.schedule import Schedule


@dataclass(frozen=True)
class TrainingState:
    """The parts of a training that have a state; `ema` where weights are averaged."""

    model: nn.Module
    optimizer: Optimizer
    scaler: GradScaler
    schedule: Schedule
    ema: WeightAverage | None

    def gather(self) -> dict[str, Any]:
        """The state, sharing its tensors with the training."""
        return {
            "model": dict(self.model.state_dict()),
            "ema": None if self.ema is None else dict(self.ema.module.state_dict()),
            "optimizer": optimizer_state(self.optimizer, self.model),
            "scaler": self.scaler.state_dict(),
            "schedule": self.schedule.state_dict(),
        }

    def restore(self, state: Mapping[str, Any], source: Path) -> None:
        """Copy `state`, read from `source`, into the training.

        Raises CheckpointError or ValueError when it belongs to another architecture or optimizer.
        """
        load_model_state(self.model, state["model"], source)
        if self.ema is not None:
            # a run that begins to average only now starts from the weights
            averaged = state["ema"] if state["ema"] is not None else state["model"]
            load_model_state(self.ema.module, averaged, source)
        load_optimizer_state(self.optimizer, self.model, state["optimizer"])
        if self.scaler.is_enabled() and state["scaler"]:
            self.scaler.load_state_dict(state["scaler"])
        self.schedule.load_state_dict(state["schedule"])

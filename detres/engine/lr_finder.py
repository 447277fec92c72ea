"""Learning-rate finder (Smith, 2017, "Cyclical Learning Rates for Training Neural Networks", section 3.3).

The rate rises exponentially from step to step while the network trains; the loss falls, then breaks out. Shapes: P
points, one per step, equally spaced in the logarithm of the rate.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from detres.engine.left_out import count_left_out
from detres.engine.loss_monitor import total_loss
from detres.engine.optimizer import set_learning_rate
from detres.engine.records import Progress
from detres.engine.train_step import TrainStep
from detres.structures import Batch

_MEMORY = 0.9  # of the running mean that decides on the end
_SETTLED = 5  # steps before which no loss is called a divergence


@dataclass(frozen=True)
class Sweep:
    """The loss (P,) at each rate (P,), of `planned` rates; `ended` says why there are no more."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    planned: int
    ended: str

    @property
    def reach(self) -> int:
        """How many neighbours on either side a point is averaged with: a tenth of the sweep in all."""
        return max(self.planned // 20, 1)

    @property
    def smoothed(self) -> tuple[float, ...]:
        """Each loss averaged with its neighbours; as many on both sides, so that nothing shifts."""
        means = []
        for i in range(len(self.losses)):
            near = min(self.reach, i, len(self.losses) - 1 - i)
            window = self.losses[i - near : i + near + 1]
            means.append(sum(window) / len(window))
        return tuple(means)

    def lowest(self) -> int | None:
        """The point of the lowest smoothed loss; None when the loss never fell enough to speak of one."""
        smoothed = self.smoothed
        full = range(self.reach, len(smoothed) - self.reach)  # averages of equally many, the only ones to compare
        lowest = min(full, key=smoothed.__getitem__, default=0)
        return lowest if lowest >= 2 * self.reach else None

    def is_noisy(self) -> bool:
        """Whether the loss fell by less than twice its usual distance from the mean of its neighbours."""
        lowest, smoothed = self.lowest(), self.smoothed
        if lowest is None:
            return True
        squares = [(loss - mean) ** 2 for loss, mean in zip(self.losses[:lowest], smoothed, strict=False)]
        return smoothed[self.reach] - smoothed[lowest] < 2 * math.sqrt(sum(squares) / len(squares))

    def steepest(self) -> int | None:
        """The point up to the lowest at which the loss falls most per unit of log rate; None where there is none."""
        lowest = self.lowest()
        if lowest is None:
            return None
        smoothed, around = self.smoothed, range(-self.reach, self.reach + 1)
        slopes = {
            i: sum(j * smoothed[i + j] for j in around)  # of the least-squares line, up to a factor
            for i in range(self.reach, lowest + 1)
        }
        best = min(slopes, key=slopes.__getitem__, default=None)
        return best if best is not None and slopes[best] < 0 else None


def exponential_rates(low: float, high: float, steps: int) -> list[float]:
    """`steps` rates from `low` to `high`, each the same multiple of the one before.

    Raises ValueError for fewer than 10 steps and for bounds that do not rise from above 0.
    """
    if steps < 10:
        raise ValueError(f"steps: got {steps}, expected at least 10, to see the loss fall and rise")
    if not 0 < low < high < math.inf:
        raise ValueError(f"rates: got {low:g} to {high:g}, expected two numbers above 0, the smaller one first")
    return [low * (high / low) ** (i / (steps - 1)) for i in range(steps)]


def sweep_learning_rates(
    step: TrainStep,
    stream: Iterator[Batch],
    rates: Sequence[float],
    *,
    stop_above: float = 4.0,
    advance: Callable[[int], None] = lambda done: None,
    message: Callable[[str], None] = lambda text: None,
) -> Sweep:
    """Train one step of `stream` at each of `rates`, multiples of the optimizer's initial rate.

    Ends when a running mean of the loss is above `stop_above` times its lowest, or when the loss or its gradient is
    not finite (that point is left out, and the weights keep what they were before it).
    """
    found: list[float] = []
    mean, lowest, progress = 0.0, math.inf, Progress()
    ended = "the last rate was reached"
    for number, rate in enumerate(rates, start=1):
        set_learning_rate(step.optimizer, rate)
        batches = list(islice(stream, step.settings.accumulate))
        count_left_out([batch.note() for batch in batches], progress, message)
        losses, grad_norm = step.gradients(number, batches)
        loss = sum(float(total_loss(part).detach()) for part in losses) / len(losses)
        overflow_is_normal = step.precision.scaler.is_enabled()
        if not math.isfinite(loss) or not (overflow_is_normal or math.isfinite(float(grad_norm))):
            ended = f"the loss or its gradient was not finite at {rate:.2g}"
            break
        found.append(loss)
        mean = _MEMORY * mean + (1 - _MEMORY) * loss
        unbiased = mean / (1 - _MEMORY**number)
        lowest = min(lowest, unbiased)
        if number > _SETTLED and unbiased > stop_above * lowest:
            ended = f"the loss rose above {stop_above:g} times its lowest at {rate:.2g}"
            break
        step.update()
        progress.step = number
        advance(number)
    return Sweep(tuple(rates[: len(found)]), tuple(found), len(rates), ended)

"""How fast training goes, and how much of the time it waits for data.

Whoever measures takes time.perf_counter: the time of day may jump. What is reported is never negative all the same.
"""

from dataclasses import dataclass


@dataclass
class SpeedMeter:
    """Adds up steps until `take` is called."""

    steps: int = 0
    images: int = 0
    seconds: float = 0.0
    loading_seconds: float = 0.0

    def add(self, images: int, seconds: float, loading_seconds: float) -> None:
        """Note a step of `images` images, of whose `seconds` the loader took `loading_seconds`."""
        self.steps += 1
        self.images += images
        self.seconds += seconds
        self.loading_seconds += loading_seconds

    def take(self) -> dict[str, float]:
        """images_per_second, seconds_per_step and loading_share (0..1) since the last call; empty without a step."""
        if self.steps == 0:
            return {}
        seconds = max(self.seconds, 1e-9)
        values = {
            "images_per_second": self.images / seconds,
            "seconds_per_step": seconds / self.steps,
            "loading_share": min(max(self.loading_seconds / seconds, 0.0), 1.0),
        }
        self.steps, self.images, self.seconds, self.loading_seconds = 0, 0, 0.0, 0.0
        return values

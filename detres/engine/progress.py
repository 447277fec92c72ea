"""What a person sees while a model trains: a bar on a terminal, plain lines elsewhere, or nothing."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import IO, Literal, Protocol

from detres.files.plain_text import printable_lines

Mode = Literal["auto", "bar", "plain", "silent"]


class Reporter(Protocol):
    """Receives the progress of a run. It is entered as a context for as long as the run lasts."""

    def __enter__(self) -> "Reporter": ...

    def __exit__(self, *_: object) -> None: ...

    def advance(self, step: int) -> None:
        """One more step is done: `step`, counted from 1."""

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Averages since the last log: losses, lr, images_per_second, eta_seconds, epoch."""

    def message(self, text: str) -> None:
        """A line that stays."""

    def paused(self) -> AbstractContextManager[None]:
        """A context in which something else (an evaluation) may draw."""


def build_reporter(num_steps: int, mode: Mode = "auto", stream: IO[str] | None = None) -> Reporter:
    """The reporter for `stream` (default: standard output); "auto" draws a bar exactly on a terminal."""
    stream = sys.stdout if stream is None else stream
    if mode == "auto":
        mode = "bar" if stream.isatty() else "plain"
    if mode == "bar":
        return BarReporter(num_steps, stream)
    return PlainReporter(num_steps, stream) if mode == "plain" else SilentReporter()


class SilentReporter:
    """Says nothing."""

    def __enter__(self) -> "SilentReporter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int) -> None:
        """Nothing."""

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Nothing."""

    def message(self, text: str) -> None:
        """Nothing."""

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing to pause."""
        yield


class PlainReporter:
    """One line per log, for files and pipes."""

    def __init__(self, num_steps: int, stream: IO[str]) -> None:
        self._num_steps = num_steps
        self._stream = stream

    def __enter__(self) -> "PlainReporter":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, step: int) -> None:
        """Lines come with the logs only."""

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """`step 200/90000  epoch 0.03  loss 1.234 (classifier 0.5 ...)  lr 0.02  12.3 images/s  ETA 1:23:45`."""
        self.message(f"step {step}/{self._num_steps}  {describe(values)}")

    def message(self, text: str) -> None:
        """A line, flushed so that it is seen when the output is a pipe."""
        print(printable_lines(text), file=self._stream, flush=True)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Nothing to pause."""
        yield


class BarReporter:
    """A rich bar with steps, remaining time, losses, learning rate and speed."""

    def __init__(self, num_steps: int, stream: IO[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.table import Column

        # no markup: file names may hold brackets
        self._console = Console(file=stream, markup=False, highlight=False)
        details = TextColumn("{task.fields[details]}", markup=False, table_column=Column(no_wrap=True, ratio=1))
        self._bar = Progress(BarColumn(bar_width=16), MofNCompleteColumn(), details, console=self._console, expand=True)
        self._task = self._bar.add_task("training", total=num_steps, details="first steps ...")

    def __enter__(self) -> "BarReporter":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advance(self, step: int) -> None:
        """Move the bar."""
        self._bar.update(self._task, completed=step)

    def log(self, step: int, values: Mapping[str, float | None]) -> None:
        """Refresh what stands beside the bar."""
        self._bar.update(self._task, completed=step, details=describe(values, brief=True))

    def message(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(printable_lines(text))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Take the bar off the screen meanwhile: rich draws one live display at a time."""
        self._bar.stop()
        try:
            yield
        finally:
            self._bar.start()


def describe(values: Mapping[str, float | None], brief: bool = False) -> str:
    """The logged values as one line; `brief` puts the remaining time first, for bars that may be cut off."""
    terms = [f"{name.removeprefix('loss_')} {_number(v)}" for name, v in values.items() if name.startswith("loss_")]
    loss = f"loss {_number(values.get('loss'))}" + (f" ({', '.join(terms)})" if len(terms) > 1 else "")
    eta = f"ETA {format_duration(values.get('eta_seconds'))}"
    speed = f"{_number(values.get('images_per_second'), 3)} images/s"
    epoch = f"epoch {values.get('epoch') or 0:.2f}"
    lr = f"lr {_number(values.get('lr'))}"
    if "error_top1" in values:
        loss += f"  error {_number(values['error_top1'], 3)}"
    return "  ".join([eta, speed, lr, loss] if brief else [epoch, loss, lr, speed, eta])


def describe_evaluation(step: int, metrics: Mapping[str, float | None], best_metric: str, is_best: bool) -> str:
    """The leading metrics of an evaluation as one line, the one that counts first."""
    names = [best_metric, *(name for name in metrics if name != best_metric)][:6]
    shown = "  ".join(f"{name} {'n/a' if (v := metrics[name]) is None else f'{v:.4f}'}" for name in names)
    return f"evaluation after step {step}: {shown}{'  (best so far)' if is_best else ''}"


def format_duration(seconds: float | None) -> str:
    """Hours, minutes and seconds as h:mm:ss; "?" when unknown."""
    if seconds is None:
        return "?"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"


def _number(value: float | None, digits: int = 4) -> str:
    return "?" if value is None else f"{value:.{digits}g}"

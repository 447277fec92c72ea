"""The benchmark: detres against torchvision, the same work timed in turns in one process."""

from detres.jobs.benchmark.agreement import DifferentWork
from detres.jobs.benchmark.report import format_results
from detres.jobs.benchmark.run import WORKS, benchmark, write_results

__all__ = ["WORKS", "DifferentWork", "benchmark", "format_results", "write_results"]

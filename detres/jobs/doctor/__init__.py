"""`detres doctor`: check a data set and its configuration before hours are spent on them."""

from detres.jobs.doctor.run import Diagnosis, doctor

__all__ = ["Diagnosis", "doctor"]

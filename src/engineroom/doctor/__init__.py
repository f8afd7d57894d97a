"""Will this model load and answer here? Told from its files, without torch and before any weight is read."""

from engineroom.doctor.diagnosis import Diagnosis, diagnose
from engineroom.doctor.finding import Finding

__all__ = ["Diagnosis", "Finding", "diagnose"]

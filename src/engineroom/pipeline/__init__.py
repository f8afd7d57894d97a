"""Joins renderer, engine and parser. Everything here runs on the model's own event loop."""

from engineroom.pipeline.generation import Pipeline
from engineroom.pipeline.streams import fold

__all__ = ["Pipeline", "fold"]

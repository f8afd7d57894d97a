"""Kernels of models with a recurrent state; none of them runs on this stand-in."""

from . import __getattr__ as __getattr__

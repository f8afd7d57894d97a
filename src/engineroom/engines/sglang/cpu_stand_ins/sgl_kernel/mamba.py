"""Kernels of models with a recurrent state; none of them runs on this stand-in."""

from sgl_kernel import __getattr__ as __getattr__  # pyright: ignore[reportMissingImports, reportAttributeAccessIssue, reportUnknownVariableType]

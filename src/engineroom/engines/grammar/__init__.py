"""Structured output for every engine: a ``ResponseFormat`` becomes one grammar text, checked before generation.

Engines get the same text, so they take the same formats, refuse the same, and let the same answers through.
"""

"""The engines: one file or folder each, behind :class:`~engineroom.engines.base.BaseEngine`."""

"""The process that runs an engine for :class:`~engineroom.engines.hosted.HostedEngine`, in another Python environment."""

"""Python environments of their own for engines, so that nobody has to reconcile two pins of torch.

``engineroom env install ENGINE`` makes one from the lists in ``requirements/``, under the user's data. An engine whose
adapter drives another process finds it here without further settings.
"""

from engineroom.environments.installed import InstalledEnvironment, find

__all__ = ["InstalledEnvironment", "find"]

"""The suite as one class."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, ClassVar

import pytest

from engineroom.testing.answers import AnswerTests
from engineroom.testing.failing import FailureTests
from engineroom.testing.lab import Lab
from engineroom.testing.leaving import LeavingTests
from engineroom.testing.refusals import RefusalTests
from engineroom.testing.scores import ScoreTests


class EngineConformance(AnswerTests, RefusalTests, ScoreTests, LeavingTests, FailureTests):
    """What every engine must do. Subclass it in a test file, with a name that pytest collects.

    Models are started once for the class: a tiny random one, the shipped ones, and one to kill, one to close.

    Attributes:
        backend: the engine's word in ``infer_backend``. An engine that is not installed fails every test.
        arguments: settings of every model, such as sizes that fit the machine of the tests.
        sparse: every model is a mixture of experts, for an engine that takes no other.
    """

    backend: ClassVar[str]
    arguments: ClassVar[Mapping[str, Any]] = {}
    sparse: ClassVar[bool] = False

    @pytest.fixture(scope="class")
    @classmethod
    def lab(cls, tmp_path_factory: pytest.TempPathFactory) -> Generator[Lab, None, None]:
        lab = Lab(cls.backend, cls.arguments, tmp_path_factory.mktemp("conformance"), sparse=cls.sparse)
        yield lab
        lab.close()

"""What the author of the toy engine writes. Not collected by itself: test_third_party.py runs it as another package."""

from engineroom.testing import EngineConformance


class TestToy(EngineConformance):
    backend = "toy"


class TestLeaky(EngineConformance):
    backend = "leaky"


class TestBoastful(EngineConformance):
    backend = "boastful"

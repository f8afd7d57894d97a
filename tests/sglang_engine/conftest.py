"""Without SGLang these tests fail: all at once, and with the way out."""

from pathlib import Path

import pytest
import sglang_environment


def pytest_collection_finish(session: pytest.Session) -> None:
    """Before the first of them all, which may be minutes from SGLang's."""
    here = Path(__file__).parent
    if session.config.option.collectonly or not any(here in item.path.parents for item in session.items):
        return
    if why := sglang_environment.missing():
        raise pytest.UsageError(why)


@pytest.fixture(scope="session")
def settings() -> dict[str, object]:
    return sglang_environment.SETTINGS

"""SGLang's own environment, which `make test` builds beside the project's."""

from pathlib import Path
from typing import Any

from engineroom import environments
from engineroom.environments.recipes import recipe

FOLDER = Path(__file__).parents[2] / ".venv-sglang"
SETTINGS: dict[str, Any] = {
    "infer_backend": "sglang",
    "sglang_python": str(FOLDER / "bin" / "python"),
}


def missing() -> str:
    """Why these tests can't run, and what to do; empty if they can."""
    found = environments.find("sglang", FOLDER)
    if found is None:
        return f"there is no SGLang in {FOLDER}: `make {FOLDER.name}/engineroom.json` installs it"
    if found.fingerprint != recipe("sglang", found.build).fingerprint:
        return f"{FOLDER} was made from other lists: `make {FOLDER.name}/engineroom.json` makes it anew"
    return ""

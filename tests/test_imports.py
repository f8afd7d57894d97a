"""The arrows between the rooms: who may import whom."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "src" / "engineroom"
BASE = {"types", "call", "params", "errors", "arguments", "config", "checkpoint", "demo", "families"}
FACADE = BASE | {
    "adapters",
    "render",
    "engines",
    "parse",
    "bridge",
    "admission",
    "deadline",
    "sampling",
    "pipeline",
    "chat",
}
ALLOWED = {
    "errors": set(),
    "params": {"errors"},
    "types": {"params"},
    "call": {"types"},
    "demo": {"demo"},
    "arguments": {"params"},
    "config": {"arguments", "params", "errors"},
    "checkpoint": {"types", "errors", "config", "demo"},
    "render": BASE | {"render"},
    "parse": BASE | {"parse"},
    "engines": BASE | {"engines", "environments", "machine"},
    "home": set(),
    "environments": {"environments", "errors", "home", "machine"},
    "bridge": {"errors"},
    "admission": {"errors"},
    "deadline": {"errors", "types"},
    "adapters": {"engines", "errors"},
    "sampling": {"errors", "params"},
    "pipeline": FACADE - {"chat", "bridge"},
    "chat": FACADE,
    "host": BASE | {"engines", "render", "host"},
    "preview": FACADE - {"chat", "bridge", "admission", "parse"},
    "machine": set(),
    "families": set(),
    "environment": BASE | {"engines", "machine"},
    "doctor": BASE | {"doctor", "machine", "sampling", "render", "engines"},
    "client": {"client", "types", "errors"},
    "comparison": FACADE | {"comparison", "client"},
    "benchmark": FACADE | {"benchmark", "client"},
    "testing": FACADE | {"testing", "preview"},
    "server": FACADE | {"server", "__init__"},
    "cli": FACADE
    | {
        "server",
        *("cli", "client", "comparison", "benchmark", "preview", "environment", "environments", "home"),
        *("machine", "doctor", "__init__"),
    },
    "__main__": {"cli"},
    "__init__": FACADE,
}


def imports(file: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names = [
                f"{node.module}.{a.name}" if node.module == "engineroom" else str(node.module)
                for a in node.names
            ]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        else:
            continue
        found |= {
            n.split(".")[1] if "." in n else "__init__" for n in names if n.split(".")[0] == "engineroom"
        }
    return {"__init__" if name == "__version__" else name for name in found}


@pytest.mark.parametrize("file", sorted(ROOT.rglob("*.py")), ids=lambda f: str(f.relative_to(ROOT)))
def test_a_room_imports_only_what_it_may(file: Path) -> None:
    room = file.relative_to(ROOT).parts[0].removesuffix(".py")
    assert imports(file) <= ALLOWED[room]

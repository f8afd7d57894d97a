"""The commands as a user starts them, in processes of their own, on the shipped models."""

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow  # each starts a program that imports torch

ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2", "ENGINEROOM_HISTORY": "0"}


def run(*words: str, stdin: str = "", python: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *python, "-m", "engineroom", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=ENVIRONMENT,
    )


def start(*words: str) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "engineroom", *words],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=ENVIRONMENT,
    )


def imported(*words: str) -> set[str]:
    """The top-level packages that a command imports, as Python itself reports them."""
    log = run(*words, python=("-X", "importtime")).stderr
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in log.splitlines() if "|" in line}


# --- what starting costs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "absent"),
    [
        (["--help"], {"torch", "transformers", "pydantic", "prompt_toolkit", "rich", "yaml", "jinja2"}),
        (["score", "--help"], {"torch", "transformers", "prompt_toolkit", "rich", "yaml"}),
        (["bench", "--help"], {"torch", "transformers", "httpx", "psutil", "rich", "yaml"}),
        (["env"], {"torch", "transformers", "prompt_toolkit", "rich"}),
        (["doctor", "demo"], {"torch", "transformers", "prompt_toolkit", "rich"}),
        (["logs", "--path"], {"torch", "transformers", "prompt_toolkit", "rich", "yaml"}),
        (["render", "-p", "hi"], {"prompt_toolkit", "rich"}),
    ],
)
def test_a_command_imports_only_what_it_needs(words: list[str], absent: set[str]) -> None:
    found = imported(*words)
    assert "engineroom" in found
    assert not found & absent


def test_render_does_without_torch() -> None:
    modules = run("render", "-p", "hi", python=("-v",)).stderr
    assert "import 'transformers'" in modules
    assert "import 'torch'" not in modules


def test_help_is_quick() -> None:
    """Under 0.4 s of processor time, which is what it takes in all on a machine that has nothing else to do."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert run("--help").returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 0.4


# --- chat -------------------------------------------------------------------------------------------------------


def test_one_shot_and_piped() -> None:
    assert run("chat", "-p", "hello there", "infer_backend=scripted").stdout == "hello there\n"
    assert run("chat", "infer_backend=scripted", stdin="piped in\n").stdout == "piped in\n"


def test_the_shipped_model_answers() -> None:
    done = run("chat", "-p", "What is the capital of France?", "temperature=0")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Paris" in done.stdout


# --- score ------------------------------------------------------------------------------------------------------


def test_scores_one_a_line_and_kind_over_rude() -> None:
    done = run("score", "Thank you, I am happy to help you.", "Go away, you idiot.")
    assert (done.returncode, done.stderr) == (0, "")
    kind, rude = map(float, done.stdout.split())
    assert kind > rude


def test_piped_json_lines_are_scored_as_the_model_scores_them() -> None:
    from engineroom import ChatModel

    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "Hello!"}]
    lines = [json.dumps({"text": "a b c"}), json.dumps({"messages": talk, "id": 7})]
    done = run("score", "--json", stdin="\n".join(lines))
    assert (done.returncode, done.stderr) == (0, "")
    shown = [json.loads(line) for line in done.stdout.splitlines()]
    with ChatModel({"model_name_or_path": "demo-reward"}) as model:
        expected = model.get_scores(["a b c", talk])
    assert [item["score"] for item in shown] == pytest.approx(expected, abs=1e-5)
    assert shown[1]["id"] == 7


def test_scores_come_before_the_input_ends_and_ctrl_c_is_quiet() -> None:
    process = start("score")
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("a text\n" * 8)
    process.stdin.flush()
    assert [float(process.stdout.readline()) for _ in range(8)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")


def test_the_count_on_the_terminal_leaves_the_scores_alone(tmp_path: Path) -> None:
    terminal, theirs = os.openpty()
    scores = tmp_path / "scores.txt"
    with scores.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "engineroom", "score", "a", "b", "c"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=theirs,
            env={**ENVIRONMENT, "TERM": "xterm"},
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # Linux says EIO when the other end is closed
            while data := os.read(terminal, 4096):
                shown += data
        assert process.wait(timeout=60) == 0
    os.close(terminal)
    assert len(scores.read_text().split()) == 3
    assert b"loading demo-reward" in shown
    assert b"scored" in shown


# --- render, doctor ---------------------------------------------------------------------------------------------


def test_render_shows_what_the_model_sees() -> None:
    from engineroom import ChatModel

    done = run("render", "-p", "hi", "-s", "Be brief.", "enable_thinking=true", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    shown = json.loads(done.stdout)
    with ChatModel() as model:
        prompt = model.render("hi", "Be brief.", enable_thinking=True)
    assert (shown["text"], tuple(shown["token_ids"])) == (prompt.text, prompt.token_ids)
    assert shown["context_length"] == 2048


def test_the_doctor_and_the_engine_agree(tmp_path: Path) -> None:
    """What the doctor lets pass loads; what it refuses does not."""
    assert run("doctor", "demo").returncode == 0
    (tmp_path / "config.json").write_text('{"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]}')
    assert run("doctor", str(tmp_path)).returncode == 1
    assert run("chat", str(tmp_path), "-p", "hi").returncode == 1


# --- how a run ends ---------------------------------------------------------------------------------------------


def test_mistakes_are_told_with_exit_code_2() -> None:
    done = run("chat", "-p", "x", "temprature=1")
    assert done.returncode == 2
    assert "did you mean temperature" in done.stderr
    assert run("chta").returncode == 2
    assert run("score").returncode == 2


def test_an_engine_that_can_not_take_the_model_says_so() -> None:
    done = run("chat", "-p", "x", "infer_backend=ktransformers")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the model has no experts" in done.stderr
    assert "infer_backend=huggingface" in done.stderr


def test_experts_are_converted_and_used(tmp_path: Path) -> None:
    out = str(tmp_path / "experts")
    done = run("convert-experts", "demo-moe", "--out", out, "kt_method=LLAMAFILE", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["layers"] == 4
    asked = ("What is the capital of France?", "temperature=0", "infer_backend=ktransformers")
    done = run("chat", "demo-moe", "-p", *asked, f"kt_weight_path={out}")
    assert done.stdout.strip() == "The capital of France is Paris."


def test_with_json_an_error_is_the_last_line_of_stderr() -> None:
    done = run("score", "--json", "model_name_or_path=./nowhere", "a")
    assert (done.returncode, done.stdout) == (1, "")
    assert json.loads(done.stderr.splitlines()[-1])["error"]["type"] == "ModelNotFoundError"


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = start("settings")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()
    assert process.stdin is not None
    process.stdin.close()


def test_a_locale_without_the_character_is_no_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "engineroom", "settings", "max_concurrent"],
        capture_output=True,
        env={**ENVIRONMENT, "PYTHONIOENCODING": "ascii"},
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")

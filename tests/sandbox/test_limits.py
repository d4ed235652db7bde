"""Plain data: limits, results and their text, levels, policies, commands."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sandbox import ExecutionResult, ExecutionStatus, IsolationLevel, KernelPool, ResourceLimits
from sandbox.errors import KernelStartError
from sandbox.kernel.policy import KernelPolicy
from sandbox.kernel.text import HeadTail, head_tail
from sandbox.provisioners.bubblewrap import Features, View, build_command
from sandbox.provisioners.choice import candidates, refusal
from sandbox.provisioners.spec import LaunchSpec, base_policy, python_roots
from sandbox.result import clean


@pytest.mark.parametrize("change", [{"processes": 0}, {"execution_seconds": 0}, {"workspace_mib": -1}, {"cpus": 0}])
def test_a_limit_cannot_be_switched_off_by_accident(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        ResourceLimits(**change)


def test_head_and_tail():
    assert head_tail("abc", 3) == "abc"
    assert head_tail("a" * 50 + "b" * 50, 20) == "a" * 10 + "\n... [80 characters omitted] ...\n" + "b" * 10
    kept = HeadTail(10)
    for part in ("abc", "defgh", "x" * 1000, "the end"):
        kept.add(part)
    assert kept.text() == "abcde\n... [1005 characters omitted] ...\ne end"
    assert kept.omitted == 1005


def test_text_for_the_agent_keeps_the_notice_and_both_ends():
    result = ExecutionResult(
        ExecutionStatus.KILLED_MEMORY,
        stdout="begin" + "x" * 5000,
        traceback="y" * 5000 + "end",
        notice="it was killed.",
    )
    text = result.to_text(400)
    assert text.startswith("begin")
    assert "end\n[sandbox] it was killed." in text
    assert "characters omitted" in text
    assert len(text) < 460
    assert len(result.to_text(0)) < 100


def test_text_is_always_utf_8_and_never_empty():
    assert "without output" in ExecutionResult(ExecutionStatus.OK).to_text()
    ExecutionResult(ExecutionStatus.OK, stdout="a\ud800\0b").to_text().encode()


@pytest.mark.parametrize(("said", "shown"), [
    ("a\x1b[31mred\x1b[0m", "ared"), ("\x1b]0;title\x07x", "x"), ("\x1b]8;;http://e\x1b\\link", "link"),
    ("\x9b31mx", "\ufffd31mx"), ("one\r\ntwo\rthree", "one\ntwo\nthree"), ("a\u202eb\u2066c", "abc"),
    ("\x08\x00", "\ufffd" * 2), ("tab\tend\n", "tab\tend\n"), ("\x1bPq#0\x1b\\x", "x"), ("\x1b(Bx", "x"),
    ("Zürich 東京 🎉", "Zürich 東京 🎉"),
])  # fmt: skip
def test_a_reader_is_shown_letters_and_line_ends(said, shown):
    assert clean(said) == shown


def test_statuses_are_those_of_the_contract():
    names = "ok error timeout killed_timeout killed_memory killed_disk killed_output died"
    assert [str(status) for status in ExecutionStatus] == names.split()


def test_levels_are_ordered():
    none, process, namespace = IsolationLevel
    assert namespace.covers(process)
    assert process.covers(process)
    assert not none.covers(process)


ISOLATING = ["namespace", "process"]


@pytest.mark.parametrize(("require", "unsafe", "expected"), [
    ("process", False, ISOLATING),
    ("process", True, [*ISOLATING, "none"]),
    ("none", True, [*ISOLATING, "none"]),
    ("none", False, ISOLATING),
    ("namespace", False, ["namespace"]),
    ("namespace", True, ["namespace"]),
])  # fmt: skip
def test_no_isolation_needs_an_explicit_wish(require, unsafe, expected):
    assert candidates("auto", IsolationLevel(require), unsafe) == expected


def test_misspelt_settings_fail_at_once():
    with pytest.raises(ValueError, match="unknown sandbox level"):
        KernelPool(level="docker")
    with pytest.raises(ValueError, match="medium"):
        KernelPool(require="medium")


def test_a_refusal_is_one_line_with_a_way_out():
    text = str(refusal("auto", IsolationLevel.NAMESPACE, ["bubblewrap: bubblewrap is not installed"]))
    assert "\n" not in text
    assert "bubblewrap is not installed" in text
    assert "README" in text


def test_policies_travel_as_json():
    policy = base_policy(LaunchSpec(ResourceLimits(), "/s"), "/run", "/w", "/tmp", landlock="try")
    assert KernelPolicy.from_json(policy.to_json()) == policy
    with pytest.raises(TypeError):
        KernelPolicy.from_json('{"unknown": 1}')


@pytest.mark.parametrize("root", [True, False])
def test_the_bubblewrap_command(root):
    view = View(5, 6, read_only=(("/a/kernel", "/run/sandbox/kernel"),), folders=("/pool",))
    command = build_command(Features("bwrap", root), view, ["python"])
    text = " ".join(command)
    for part in ("--unshare-pid", "--unshare-net", "--die-with-parent", "--new-session", 
                 "--size 6 --perms 1777 --tmpfs /tmp", "--perms 0755 --dir /etc", "--remount-ro / "):  # fmt: skip
        assert part in text
    assert ("--unshare-user" in text) != root
    assert command[-2:] == ["--", "python"]
    assert "--bind" not in command  # nothing of the host can be written
    assert "/home" not in text.split()


def test_an_environment_in_a_project_does_not_open_the_project(tmp_path, monkeypatch):
    """`python -m venv .`: what lies beside bin and lib is none of the code's business."""
    for name in ("bin", "lib", "data", "include"):
        (tmp_path / name).mkdir()
    for name in ("pyvenv.cfg", ".env"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shown = {path.removeprefix(f"{tmp_path}/") for path in python_roots() if path.startswith(str(tmp_path))}
    assert shown == {"bin", "lib", "pyvenv.cfg"}
    monkeypatch.chdir(tmp_path / "lib")
    with pytest.raises(KernelStartError, match="work in another folder"):
        python_roots()


def test_importing_the_package_loads_nothing():
    code = "import sys, sandbox; print(sorted(m for m in sys.modules if m.split('.')[0] in ('zmq', 'jupyter_client')))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"

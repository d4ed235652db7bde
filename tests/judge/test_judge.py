"""The judge against a real HTTP server on loopback: good replies and every fault."""

import asyncio
import json
import logging
import math
import pickle
import sqlite3
from collections import Counter

import pytest

from mappa.errors import ConfigError, JudgeError
from mappa.judge.base import When
from tests.judge.conftest import KEY
from tests.judge.evidence import evidence
from tests.judge.server import GOOD, TOKENS_IN, TOKENS_OUT, FakeJudge, completion, is_trial


def rows(path, query: str) -> list:
    with sqlite3.connect(path) as db:
        found = db.execute(query).fetchall()
    db.close()
    return found


async def test_a_good_reply_is_a_verdict_and_is_in_the_ledger(serve, make, tmp_path):
    server = await serve()
    judge = make(server.url, price_in=1.0, price_out=10.0)
    verdict = await judge.score(evidence())
    assert (verdict.score, verdict.reason, verdict.cached) == (8.0, "sound work", False)
    assert (verdict.tokens_in, verdict.tokens_out) == (TOKENS_IN, TOKENS_OUT)
    assert verdict.cost == pytest.approx((50 * 1.0 + 7 * 10.0) / 1e6)
    assert verdict.judge == judge.id
    row = rows(
        tmp_path / "judge.sqlite",
        "SELECT score, model, tokens_in, tokens_out, cost, reason, status, seconds > 0 FROM calls",
    )
    assert row == [(8.0, "m", 50, 7, verdict.cost, "sound work", "ok", 1)]


async def test_what_is_sent(serve, make):
    server = await serve()
    judge = make(server.url, temperature=0.3, max_tokens=99, extra_body={"reasoning_effort": "low"})
    await judge.score(evidence("my answer is 2"))
    body = server.bodies[0]
    assert [m["role"] for m in body["messages"]] == ["system", "user", "assistant", "user"]
    assert "my answer is 2" in body["messages"][1]["content"]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.3, 99)
    assert body["reasoning_effort"] == "low"
    assert body["response_format"]["type"] == "json_schema"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_the_same_request_is_paid_once_at_once_later_and_after_a_restart(serve, make):
    server = await serve(seconds=0.05)
    judge = make(server.url)
    together = await asyncio.gather(*(judge.score(evidence()) for _ in range(10)))
    assert [v.score for v in together] == [8.0] * 10
    assert sorted(v.cached for v in together) == [False] + [True] * 9
    assert sum(v.tokens_in for v in together) == TOKENS_IN
    assert (await judge.score(evidence())).cached
    await judge.close()
    again = await make(server.url).score(evidence())
    assert (again.score, again.cached, again.cost) == (8.0, True, 0.0)
    assert server.calls == 1


@pytest.mark.parametrize(
    "change", [{"model": "n"}, {"temperature": 0.5}, {"max_tokens": 5}, {"sees_ground_truth": True}]
)
async def test_another_judge_is_another_request(serve, make, change):
    server = await serve()
    first, second = make(server.url), make(server.url, **change)
    await first.score(evidence())
    assert not (await second.score(evidence())).cached
    assert first.id != second.id


FAULTS = ["slow", "rate_limited", "broken", "cut", "nonsense", "wrong_schema"]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_passing_fault_costs_a_retry(serve, make, tmp_path, fault):
    server = await serve(lambda body, seen: GOOD if seen else fault)
    verdict = await make(server.url, timeout_s=1.0 if fault == "slow" else 20.0).score(evidence())
    assert verdict.score == 8.0
    assert server.calls == 2
    status = {"slow": "timeout", "rate_limited": "http_429", "broken": "http_500", "cut": "broken"}.get(
        fault, "nonsense"
    )
    assert rows(tmp_path / "judge.sqlite", "SELECT status FROM calls ORDER BY id") == [(status,), ("ok",)]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_lasting_fault_is_no_verdict_and_is_asked_again_later(serve, make, fault):
    server = await serve(lambda body, seen: fault)
    judge = make(server.url, timeout_s=1.0 if fault == "slow" else 20.0, retries=2)
    verdict = await judge.score(evidence())
    assert verdict.score is None
    assert "after 3 attempts" in verdict.reason
    assert server.calls == 3
    assert judge.fatal is None
    server.script = lambda body, seen: GOOD
    assert (await judge.score(evidence())).score == 8.0


@pytest.mark.parametrize(
    "bad", ["refusal", "empty", "I liked it.", "PROCESS_SCORE: 12/10", '{"process_score": "high"}']
)
async def test_an_unreadable_reply_is_corrected_once(serve, make, bad):
    server = await serve(lambda body, seen: GOOD if len(body["messages"]) == 6 else bad)
    verdict = await make(server.url).score(evidence())
    assert verdict.score == 8.0
    assert (verdict.tokens_in, verdict.tokens_out) == (2 * TOKENS_IN, 2 * TOKENS_OUT)
    assert server.bodies[1]["messages"][5]["content"].startswith("Reply with the score only, code ")


@pytest.mark.parametrize("bad", ["refusal", "empty", "I liked it.", "PROCESS_SCORE: 12/10", "AUC 0.61"])
async def test_unreadable_twice_is_no_verdict_but_is_paid_and_recorded(serve, make, tmp_path, bad):
    server = await serve(lambda body, seen: bad)
    judge = make(server.url)
    verdict = await judge.score(evidence())
    assert verdict.score is None
    assert verdict.reason
    assert server.calls == server.billed == 2
    totals = await judge.totals()
    assert (totals["calls"], totals["tokens_in"], totals["failed"]) == (2, 2 * TOKENS_IN, 1)
    assert rows(tmp_path / "judge.sqlite", "SELECT purpose, status, tokens_in FROM calls") == [
        ("score", "ok", TOKENS_IN),
        ("correct", "ok", TOKENS_IN),
    ]
    await judge.score(evidence())
    assert server.calls == 4, "a failure is no verdict for ever"


async def test_a_reply_cut_at_its_token_limit_is_not_half_read(serve, make):
    cut = completion("PROCESS_SCORE_CODE: 1", finish_reason="length")
    server = await serve(lambda body, seen: GOOD if len(body["messages"]) == 6 else cut)
    assert (await make(server.url).score(evidence())).score == 8.0


async def test_a_request_that_cannot_work_is_not_repeated(serve, make):
    server = await serve(lambda body, seen: GOOD if is_trial(body) else "400:maximum context length exceeded")
    judge = make(server.url)
    await judge.start()
    verdict = await judge.score(evidence())
    assert verdict.score is None
    assert "maximum context length" in verdict.reason
    assert server.calls == 2
    assert judge.fatal is None


async def test_retry_after_is_honoured(serve, make):
    server = await serve(lambda body, seen: GOOD if seen else "rate_limited")
    server.retry_after = "1"
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert (await make(server.url).score(evidence())).score == 8.0
    assert loop.time() - began >= 1.0


async def test_a_retry_after_beyond_patience_is_not_waited_for(serve, make):
    server = await serve(lambda body, seen: "rate_limited")
    server.retry_after = "3600"
    verdict = await asyncio.wait_for(make(server.url).score(evidence()), 20)
    assert verdict.score is None
    assert server.calls == 1


async def test_patience_ends(serve, make):
    server = await serve(lambda body, seen: "broken")
    judge = make(server.url, patience_s=0.5, retries=10_000)
    verdict = await asyncio.wait_for(judge.score(evidence()), 20)
    assert verdict.score is None
    assert "patience" in verdict.reason or "within" in verdict.reason


async def test_a_judge_that_is_down_holds_up_nobody(make):
    judge = make("http://127.0.0.1:9/v1", patience_s=0.3, timeout_s=5.0, concurrent=4)
    verdicts = await asyncio.wait_for(asyncio.gather(*(judge.score(evidence(str(i))) for i in range(500))), 60)
    assert all(v.score is None for v in verdicts)
    assert any("down" in v.reason for v in verdicts)
    assert judge.fatal is None
    assert (await judge.totals())["cost"] == 0.0


@pytest.mark.parametrize("status", ["401", "403", "404"])
async def test_a_wrong_key_or_model_stops_before_the_first_rollout(serve, make, status):
    server = await serve(lambda body, seen: status)
    judge = make(server.url)
    with pytest.raises(JudgeError, match=status) as caught:
        await judge.start()
    assert server.calls == 1
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert judge.fatal


@pytest.mark.parametrize("status", ["401", "403", "404"])
async def test_a_key_that_is_withdrawn_during_the_run_stops_all_further_calls(serve, make, status):
    server = await serve()
    judge = make(server.url)
    await judge.start()
    assert (await judge.score(evidence("a"))).score == 8.0
    server.script = lambda body, seen: status
    assert (await judge.score(evidence("b"))).score is None
    assert is_trial(server.bodies[-1]), "a call without any agent's text is refused as well"
    calls = server.calls
    verdicts = await asyncio.gather(*(judge.score(evidence(f"c{i}")) for i in range(20)))
    assert [v.score for v in verdicts] == [None] * 20
    assert server.calls == calls
    assert status in judge.fatal
    assert (await judge.score(evidence("a"))).score == 8.0, "what was paid for is still there"


@pytest.mark.parametrize("fault", ["broken", "rate_limited", "cut"])
async def test_a_judge_that_is_only_down_does_not_stop_the_start(serve, make, caplog, fault):
    server = await serve(lambda body, seen: fault)
    await make(server.url).start()
    assert "does not answer yet" in caplog.text


async def test_no_key_is_said_at_the_start_and_none_is_taken_from_elsewhere(serve, make, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    server = await serve()
    with pytest.raises(JudgeError, match=r"NO_SUCH_KEY .* export it"):
        await make(server.url, api_key_env="NO_SUCH_KEY").start()
    assert server.calls == 0


@pytest.mark.parametrize(
    ("complaint", "gone"),
    [
        ("400:response_format json_schema is not supported", "response_format"),
        ("400:logprobs are not available for this model", "logprobs"),
        ("400:Use 'max_completion_tokens' instead of 'max_tokens'", "max_tokens"),
        ("400:Unsupported value: 'temperature' does not support 0", "temperature"),
    ],
)
async def test_what_an_endpoint_refuses_is_left_out_from_then_on(serve, make, caplog, complaint, gone):
    server = await serve(lambda body, seen: complaint if gone in body else GOOD)
    judge = make(server.url, logprobs=True)
    verdicts = await asyncio.gather(*(judge.score(evidence(str(i))) for i in range(20)))
    assert [v.score for v in verdicts] == [8.0] * 20
    await judge.score(evidence("later"))
    assert gone not in server.bodies[-1]
    assert sum("refuses" in record.message for record in caplog.records) == 1


async def test_at_the_start_an_unclear_refusal_is_put_down_to_structured_output(serve, make):
    server = await serve(lambda body, seen: "400:bad request" if "response_format" in body else GOOD)
    judge = make(server.url)
    await judge.start()
    assert (await judge.score(evidence())).score == 8.0
    assert server.calls == 3


async def test_structured_true_insists(serve, make):
    server = await serve(lambda body, seen: "400:response_format is not supported")
    with pytest.raises(JudgeError, match="response_format"):
        await make(server.url, structured=True).start()


async def test_structured_false_never_asks(serve, make):
    server = await serve()
    await make(server.url, structured=False).score(evidence())
    assert "response_format" not in server.bodies[0]


async def test_samples_are_averaged_over_those_that_can_be_read(serve, make):
    replies = ["PROCESS_SCORE_CODE: 6", "PROCESS_SCORE_CODE: 9", "no idea", "still no idea"]
    server = await serve()
    server.script = lambda body, seen: replies[server.calls - 1] if server.calls <= 4 else "no idea"
    judge = make(server.url, samples=3, temperature=1.0, concurrent=1)
    verdict = await judge.score(evidence())
    assert verdict.score == 7.5
    assert verdict.tokens_in == 4 * TOKENS_IN


async def test_the_mean_of_the_score_tokens_distribution(serve, make):
    alternatives = [{"token": "8", "logprob": math.log(0.75)}, {"token": "6", "logprob": math.log(0.25)}]
    tokens = [
        {"token": '{"code": "CODE", "process_score": ', "logprob": 0.0, "top_logprobs": []},
        {"token": "8", "logprob": math.log(0.75), "top_logprobs": alternatives},
        {"token": "}", "logprob": 0.0, "top_logprobs": []},
    ]
    reply = completion('{"code": "CODE", "process_score": 8}', logprobs={"content": tokens})
    server = await serve(lambda body, seen: reply)
    judge = make(server.url, logprobs=True)
    assert (await judge.score(evidence())).score == pytest.approx(7.5)
    assert server.bodies[0]["top_logprobs"] == 20


async def test_the_budget_is_kept_and_the_rest_is_unjudged(serve, make):
    server = await serve(seconds=0.01)
    price = {"price_in": 1000.0, "price_out": 1000.0, "max_tokens": TOKENS_OUT}
    judge = make(server.url, **price, budget=2.0, concurrent=8)
    verdicts = await asyncio.gather(*(judge.score(evidence(str(i))) for i in range(60)))
    judged = [v for v in verdicts if v.score is not None]
    totals = await judge.totals()
    assert 20 <= len(judged) <= 35, "2 dollars at 0.057 a call"
    assert totals["cost"] == pytest.approx(server.billed * 0.057)
    assert totals["cost"] <= 2.0
    assert judge.budget_spent
    assert all("budget" in v.reason for v in verdicts if v.score is None)
    assert judged[0].reason == "sound work"
    richer = make(server.url, **price, budget=100.0)
    assert (await asyncio.gather(*(richer.score(evidence(str(i))) for i in range(60))))[59].score == 8.0


async def test_calls_without_a_bill_count_against_the_budget(serve, make):
    server = await serve(lambda body, seen: "cut")
    judge = make(server.url, price_in=1000.0, price_out=1000.0, max_tokens=100, budget=1.0, retries=100)
    verdict = await judge.score(evidence())
    assert "budget" in verdict.reason
    totals = await judge.totals()
    assert totals["cost"] == 0.0
    assert 0.0 < totals["held"] <= 1.0


async def test_the_forecast_comes_before_the_first_call(serve, make, caplog):
    caplog.set_level(logging.INFO)
    server = await serve(lambda body, seen: "PROCESS_SCORE: 0" if "$0.00168 an action" in caplog.text else "broken")
    judge = make(server.url, price_in=0.4, price_out=1.6, budget=1.0)
    await judge.start()
    assert server.calls == 1, "what a verdict costs was said before it"
    await judge.announce(10_000)
    assert "$0.00168 an action" in caplog.text
    assert "10,000 actions, at most, cost about" in caplog.text
    assert "$1.00 pays for about 595 more actions" in caplog.text
    assert any(r.levelno == logging.WARNING and "budget" in r.message for r in caplog.records), "too little money"


async def test_record_and_replay_without_a_network(serve, make, tmp_path):
    server = await serve(lambda body, seen: "nothing to say" if "odd" in json.dumps(body) else GOOD)
    recorder = make(server.url, mode="record")
    texts = [f"{'odd' if i % 3 == 0 else 'even'} {i}" for i in range(12)]
    recorded = [(await recorder.score(evidence(text))) for text in texts]
    again = [(await recorder.score(evidence(text))) for text in texts]
    assert [v.score for v in again] == [v.score for v in recorded]
    await recorder.close()
    calls = server.calls
    await server.__aexit__()
    player = make(server.url, mode="replay", api_key_env="NO_SUCH_KEY")
    await player.start()
    replayed = [(await player.score(evidence(text))) for text in texts]
    assert [(v.score, v.reason) for v in replayed] == [(v.score, v.reason) for v in recorded]
    assert sum(v.score is None for v in replayed) == 4
    assert all(v.cached and v.cost == 0 for v in replayed)
    assert server.calls == calls


async def test_replay_of_something_that_was_never_recorded(serve, make, caplog, tmp_path):
    with pytest.raises(JudgeError, match="no recording"):
        await make("http://127.0.0.1:9/v1", mode="replay").start()
    server = await serve()
    await make(server.url).score(evidence("known"))
    player = make(server.url, mode="replay")
    verdict = await player.score(evidence("unknown"))
    assert verdict.score is None
    assert "not in the recording" in verdict.reason
    assert "t1/0" in caplog.text
    assert (await player.totals())["missing"] == 1
    assert server.calls == 1


async def test_a_ledger_that_cannot_be_written_stops_paying(serve, make, tmp_path):
    (tmp_path / "judge.sqlite").mkdir()
    server = await serve()
    judge = make(server.url)
    with pytest.raises(JudgeError, match="ledger"):
        await judge.start()
    assert (await judge.score(evidence())).score is None
    assert "ledger" in judge.fatal
    assert server.calls == 0


async def test_a_cancelled_action_leaves_no_claim_and_keeps_its_call_on_the_bill(serve, make, tmp_path):
    server = await serve(seconds=30.0)
    judge = make(server.url, price_in=1.0, price_out=1.0)
    task = asyncio.create_task(judge.score(evidence()))
    await server.called.wait()
    task.cancel()
    await judge.close()
    assert rows(tmp_path / "judge.sqlite", "SELECT status, held > 0 FROM calls") == [("cancelled", 1)]


async def test_concurrency_is_bounded_and_used(serve, make):
    server = await serve(seconds=0.05)
    judge = make(server.url, concurrent=7)
    await asyncio.gather(*(judge.score(evidence(str(i))) for i in range(40)))
    assert server.most_at_once == 7


async def test_keys_appear_nowhere(serve, make, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    plan = ["401", "broken", "400:you sent " + KEY, "echo", GOOD]

    def script(body, seen):
        if is_trial(body):
            return GOOD
        kind = plan[int(body["messages"][1]["content"].split("plan")[1][0])]
        return f'{{"reason": "your key is {KEY}", "code": "CODE", "process_score": 5}}' if kind == "echo" else kind

    server = await serve(script)
    judge = make(server.url, retries=1)
    await judge.start()
    said = [repr(await judge.score(evidence(f"plan{i}"))) for i in (4, 3, 2, 1, 0)]
    said += [repr(judge), str(judge.fatal), caplog.text, repr(judge._key), str(vars(judge))]
    assert "your key is ***" in said[1], "the echo was answered"
    with pytest.raises(TypeError, match="never written"):
        pickle.dumps(judge._key)
    await judge.close()
    assert not any(KEY in text for text in said)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)


def test_settings_that_cannot_work_are_refused(make, monkeypatch):
    for wrong in (
        {"samples": 2, "temperature": 0.0},
        {"budget": 5.0},
        {"structured": "maybe"},
        {"base_url": "localhost:8000/v1"},
    ):
        with pytest.raises(ConfigError, match="judge"):
            make("http://localhost/v1", **wrong)
    for key in ("sk-ключ", "two\nlines"):
        monkeypatch.setenv("BAD_KEY", key)
        with pytest.raises(ConfigError, match="BAD_KEY holds characters") as caught:
            make("http://localhost/v1", api_key_env="BAD_KEY")
        assert key not in str(caught.value)
    with pytest.raises(ValueError, match="sometimes"):
        make("http://localhost/v1", when="sometimes")


def test_nothing_is_opened_before_it_is_needed(make, tmp_path):
    assert make("http://localhost/v1", when="episode").when is When.EPISODE
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
async def test_a_thousand_requests_with_a_fifth_of_them_faulty(serve, make, tmp_path):
    faults = ["slow", "rate_limited", "broken", "cut", "nonsense", "wrong_schema", "refusal", "empty", "drivel"]
    counter = iter(range(10**9))

    def script(body, seen):
        number = next(counter)
        return faults[(number // 5) % len(faults)] if number % 5 == 0 else GOOD

    server = await serve(script, slow_s=90.0)
    # patient: a busy machine has kept a whole process waiting for over three seconds
    judge = make(server.url, timeout_s=10.0, concurrent=32, retries=5, price_in=1.0, price_out=2.0)
    server.retry_after = "0.05"
    verdicts = await asyncio.gather(*(judge.score(evidence(f"answer {i}")) for i in range(1000)))
    assert len(verdicts) == 1000
    assert all(v.score == 8.0 or (v.score is None and v.reason) for v in verdicts)
    unjudged = sum(v.score is None for v in verdicts)
    assert unjudged < 200
    totals = await judge.totals()
    path = tmp_path / "judge.sqlite"
    assert totals["calls"] == server.calls
    assert totals["tokens_in"] == server.billed * TOKENS_IN == sum(v.tokens_in for v in verdicts)
    assert totals["tokens_out"] == server.billed * TOKENS_OUT == sum(v.tokens_out for v in verdicts)
    assert totals["cost"] == pytest.approx(server.billed * (TOKENS_IN + 2 * TOKENS_OUT) / 1e6)
    assert totals["failed"] == unjudged
    assert rows(path, "SELECT COUNT(score) FROM calls") == [(1000 - unjudged,)]
    assert rows(path, "SELECT COUNT(*) FROM calls WHERE status = 'pending'") == [(0,)]
    statuses = Counter(dict(rows(path, "SELECT status, COUNT(*) FROM calls GROUP BY status")))
    assert statuses["ok"] == server.billed
    assert statuses["timeout"] == server.answers["slow"]
    assert statuses["http_429"] == server.answers["rate_limited"]
    readable_per_request = "SELECT MAX(n) FROM (SELECT COUNT(*) n FROM calls WHERE raw LIKE '%score%' GROUP BY key)"
    assert rows(path, readable_per_request) == [(1,)], "no action was judged twice"
    before = server.calls
    again = await asyncio.gather(*(judge.score(evidence(f"answer {i}")) for i in range(1000) if verdicts[i].score))
    assert all(v.cached for v in again)
    assert server.calls == before


async def test_rates_are_kept_against_the_server(serve, make):
    server: FakeJudge = await serve()
    judge = make(server.url, requests_per_minute=600)
    loop = asyncio.get_running_loop()
    began = loop.time()
    await asyncio.gather(*(judge.score(evidence(str(i))) for i in range(80)))
    assert loop.time() - began >= (80 - 60) / 10 * 0.9, "60 at once, then 10 a second"

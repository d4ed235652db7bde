"""The page in a real browser: it opens, filters, folds, fits, and stays inert whatever agents say."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote
from urllib.request import Request, urlopen

import pytest

from mappa.report.__main__ import report
from mappa.report.live import LivePage, server
from mappa.types import Task
from tests.report.conftest import BROKE, OK, episode

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

EVIL = '</script><img src=x onerror="window.hacked=1"><b>bold</b>${window.hacked=1}\'" javascript:alert(1)'


@contextmanager
def opened(browser: Browser, address: str, key: str = "", **context: object) -> Iterator[Page]:
    """The page with its charts drawn; nothing may have been complained about when it is closed."""
    page = browser.new_context(**context).new_page()
    complaints: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(f"{address}#{quote(key, safe='')}" if key else address)
    page.wait_for_selector("html[data-charts=true]", timeout=30_000)
    yield page
    assert complaints == []
    page.requests = [url for url in requests if not url.startswith(("data:", "blob:"))]
    assert page.requests[1:] == [] or address.startswith("http")
    page.context.close()


def written(folder: Path, *words: str) -> str:
    report([f"run={folder}", *words])
    return f"file://{folder}/report.html"


@pytest.fixture
def chain(run_folder) -> Path:
    said = [("engineer", "code of the engineer", 1.0, OK), ("modeler", "code of the modeler", 9.0, BROKE)]
    other = [("engineer", "a needle in the hay", 10.0, OK), ("modeler", "fitted", 8.0, OK)]
    training = [episode("bad", said, 0.0), episode("good", other, 1.0), episode("broken", other, None)]
    held_out = [("engineer", "before", None, None)]
    after = [("engineer", "after", None, None)]
    return run_folder(training, [episode("s0", held_out, 0.0)], [episode("s0", after, 1.0)])


def listed(page: Page) -> list[str]:
    return page.eval_on_selector_all("#episodes a", "all => all.map(a => decodeURIComponent(a.hash.slice(1)))")


def test_a_real_run_leaves_a_page_with_its_curve_and_episodes(browser, short_run):
    folder = short_run
    with opened(browser, f"file://{folder}/report.html") as page:
        assert page.locator("h1").inner_text() == "quickstart"
        assert page.locator("#chart-curve .scatterlayer .trace").count() == 4, "accuracy, and three rewards"
        assert page.locator("#chart-phases .barlayer .trace").count() >= 3
        summary = json.loads((folder / "summary.json").read_text())
        assert f"{summary['accuracy_after']['mean']:.3f}" in page.locator(".tile").first.inner_text()
        assert len(listed(page)) == page.locator("#count").evaluate("node => Number(node.dataset.found)")
        page.select_option("#set", "training")
        page.select_option("#epoch", "1")
        first = json.loads((folder / "episodes/epoch=0001.jsonl").read_text().splitlines()[1])
        page.locator(f"#episodes a[href$='{first['id']}']").click()
        page.wait_for_selector(f"text={first['task']['question']}")
        shown = page.locator("#action-0")
        assert shown.locator(".text").first.inner_text().startswith(first["actions"][0]["text"])
        assert first["actions"][0]["verdict"]["reason"] in shown.inner_text()
        tinted = shown.locator(".text span[style*=background]")
        assert tinted.count() == len(first["actions"][0]["completion_ids"])
        assert "log-probability" in tinted.first.get_attribute("title")


def test_filters_and_the_search_find_episodes(browser, chain):
    with opened(browser, written(chain), viewport={"width": 1280, "height": 900}) as page:
        assert len(listed(page)) == 5
        for box, value, found in (
            ("#grade", "wrong", {"training/0/bad", "sums/0/s0"}),
            ("#flag", "error", {"training/0/broken"}),
            ("#flag", "toolFailed", {"training/0/bad"}),
            ("#set", "sums", {"sums/0/s0", "sums/1/s0"}),
            ("#epoch", "1", {"sums/1/s0"}),
            ("#why", "better than before training", {"sums/1/s0"}),
        ):
            page.select_option(box, value)
            assert set(listed(page)) == found
            page.select_option(box, "")
        page.select_option("#sort", "reward")
        page.select_option("#agent", "modeler")
        assert listed(page)[0] in ("training/0/good", "training/0/broken"), "8 of the modeler's is less than 9"
        assert "reward 0.80" in page.locator("#episodes li").first.inner_text()
        page.select_option("#agent", "engineer")
        assert listed(page)[0] == "training/0/bad"
        page.fill("#search", "NEEDLE in")
        page.wait_for_selector("#count[data-found='2']")
        assert set(listed(page)) == {"training/0/good", "training/0/broken"}
        page.fill("#search", "not said by anybody")
        page.wait_for_selector("#count[data-found='0']")


def test_prompts_fold_and_a_fault_leads_to_what_failed_after_it(browser, chain):
    with opened(browser, written(chain), "training/0/bad") as page:
        first = page.locator("#action-0")
        assert "prompt of engineer" not in first.inner_text()
        first.locator("details.prompt summary").click()
        first.locator("text=prompt of engineer").wait_for()
        assert "no such file" in page.locator("#action-1 .tool.failed").inner_text()
        first.locator(".blame a").click()
        assert "pointed" in page.locator("#action-1").get_attribute("class")
        assert "put down to engineer, action 1" in page.locator("#action-1").inner_text()


def test_the_same_problem_before_and_after_training_side_by_side(browser, chain):
    with opened(browser, written(chain), "sums/1/s0", viewport={"width": 1280, "height": 900}) as page:
        sides = page.locator(".sides section")
        assert [side.locator(".card").count() for side in sides.all()] == [1, 1]
        left, right = (side.bounding_box() for side in sides.all())
        assert left["y"] == right["y"]
        assert left["x"] < right["x"]


def test_a_page_full_of_markup_stays_inert(browser, run_folder):
    task = Task(id=EVIL, question=EVIL, answer=EVIL, kind=EVIL)
    line = episode("e0", [("solver", EVIL, 1.0, BROKE), (EVIL, EVIL, 1.0, OK)], 0.0, task=task)
    for action in line["actions"]:
        action |= {"files": [EVIL], "messages": [{"role": "user", "content": EVIL}]}
        action["verdict"]["reason"] = EVIL
        action["tool"] |= {"text": EVIL, "code": EVIL}
    line["grade"] |= {"reason": EVIL, "metrics": {EVIL: 1.0}}
    error = episode("e1", [("solver", "x", 1.0, None)], None, task=task, error=EVIL)
    folder = run_folder([line, error], name="run")
    (folder / "train.log").write_text(EVIL)
    for key in ("training/0/e0", "training/0/e1"):
        with opened(browser, written(folder), key) as page:
            for summary in page.locator("summary").all():
                summary.click()
            assert EVIL in page.locator("#episode").inner_text()
            assert page.locator("img, #episode b, #episodes b, .said b").count() == 0
            assert page.evaluate("window.hacked") is None


def test_only_the_page_s_own_scripts_run_and_none_reaches_the_network(browser, chain):
    """Even if something were to get past the text nodes."""
    page = browser.new_page()
    page.goto(written(chain))
    page.wait_for_selector("html[data-charts=true]")
    stopped = page.evaluate("""async () => {
        const stopped = [];
        document.addEventListener('securitypolicyviolation', (event) => stopped.push(event.effectiveDirective));
        const script = document.createElement('script');
        script.textContent = 'window.hacked = 1';
        document.body.append(script);
        const image = document.createElement('img');
        image.setAttribute('onerror', 'window.hacked = 1');
        image.src = 'http://127.0.0.1:9/x';
        document.body.append(image);
        await fetch('http://127.0.0.1:9/x').catch(() => null);
        await new Promise((done) => setTimeout(done, 300));
        return stopped;
    }""")
    assert {"script-src-elem", "script-src-attr", "img-src", "connect-src"} <= set(stopped)
    assert page.evaluate("window.hacked") is None
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (400, "dark")])
def test_it_fits_its_window_in_light_and_dark(browser, chain, width: int, scheme: str):
    context = {"viewport": {"width": width, "height": 850}, "color_scheme": scheme}
    with opened(browser, written(chain), "training/0/bad", **context) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.wait_for_selector("#action-1")
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        dark = sum(map(int, colour[4:-1].split(","))) < 380
        assert dark == (scheme == "dark")
        page.click("#theme")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != colour
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_what_is_no_number_and_what_is_no_episode_do_not_stop_the_page(browser, run_folder):
    line = episode("e0", [("solver", "nan", 5.0, None), ("executor", "inf", 5.0, OK)], 0.5)
    line["actions"][0]["advantages"] = [float("nan")] * len(line["actions"][0]["advantages"])
    line["actions"][1]["logprobs"] = [float("-inf")] * len(line["actions"][1]["logprobs"])
    line["grade"]["metrics"] = {"rmse": float("inf")}
    empty = episode("e1", [("solver", "x", 5.0, None)], 0.0) | {"actions": []}
    folder = run_folder([line, empty])
    with opened(browser, written(folder), "training/0/e0") as page:
        assert "rmse no number" in page.locator("#episode").inner_text()
        page.goto(f"{page.url.partition('#')[0]}#training/0/e1")
        page.wait_for_selector("p:has-text('e1 · task-e1')")
        assert page.locator("#episode .about").count() == 1
    with opened(browser, f"file://{folder}/report.html#%E0%A4%A") as page:
        assert len(listed(page)) == 2


def test_a_debate_is_drawn_in_rounds(browser, run_folder):
    seats = ["generator_1", "generator_2", "generator_3"]
    for chain in (1, 2, 3):
        seats += ["summariser", f"critic_{chain}"]
    line = episode("e0", [(seat, f"said by {seat}", None, None) for seat in seats], 1.0)
    folder = run_folder([line], [], [], "team._target_=mappa.team.debate.Debate")
    with opened(browser, written(folder), "training/0/e0", viewport={"width": 1280, "height": 900}) as page:
        rounds = page.locator(".debate .grid").all()
        assert [one.locator(".seat").all_inner_texts() for one in rounds] == [
            ["generator_1", "generator_2", "generator_3"],
            ["summariser", "critic_1", "summariser", "critic_2", "summariser", "critic_3"],
        ]
        tops = [one.bounding_box()["y"] for one in rounds[0].locator(".card").all()]
        assert len(set(tops)) == 1, "side by side"


def test_a_dialogue_is_drawn_with_a_side_for_each(browser, run_folder):
    line = episode("e0", [("alice", "hi", None, None), ("bob", "ho", None, None), ("alice", "so", None, None)], 1.0)
    folder = run_folder([line], [], [], "team._target_=mappa.team.dialogue.Dialogue")
    with opened(browser, written(folder), "training/0/e0", viewport={"width": 1280, "height": 900}) as page:
        lefts = [card.bounding_box()["x"] for card in page.locator(".dialogue .card").all()]
        assert lefts[0] == lefts[2] < lefts[1]


def test_attempts_that_branch_are_drawn_as_a_tree(browser, run_folder):
    task = Task(id="t", question="q", answer="4")
    said = [("alice", "a", None, None), ("bob", "b", None, None)]
    lines = [
        episode("e0", said, 0.0, task=task),
        episode("e1", said, 1.0, task=task, parent="e0", shared=1),
        episode("e2", said, 1.0, task=task),
    ]
    with opened(browser, written(run_folder(lines)), "training/0/e1") as page:
        page.wait_for_selector(".tree circle")
        assert page.locator(".tree a").count() == 3
        assert [row.locator("circle").count() for row in page.locator(".tree a").all()] == [2, 1, 2]
        assert "replayed" in page.locator("#action-0").get_attribute("class")
        page.locator(".tree a", has_text="e2").locator("text").click()
        page.wait_for_selector("p:has-text('e2 · t')")


def test_what_changed_is_on_the_page(browser, run_folder, chain):
    other = run_folder([episode("x", [("solver", "x", 1.0, None)], 1.0)], [], [], "lora.rank=8", name="other")
    with opened(browser, written(chain, f"with={other}")) as page:
        assert "lora.rank" in page.locator(".changed").inner_text()


def test_a_live_page_renews_itself_when_the_run_has_left_more(browser, run_folder, tmp_path):
    folder = run_folder([episode("e0", [("solver", "x", 1.0, None)], 1.0)])
    with server(LivePage(folder, None, tmp_path / "live.html"), 0) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{listening.server_port}/"
        with opened(browser, address) as page:
            assert listed(page) == ["training/0/e0"]
            time.sleep(0.01)
            run_folder([episode(f"e{i}", [("solver", "x", 1.0, None)], 1.0) for i in range(3)])
            page.wait_for_selector("#count[data-found='3']", timeout=30_000)
        foreign = Request(address, headers={"Host": "evil.example"})
        with pytest.raises(OSError, match="403"):
            urlopen(foreign)
        listening.shutdown()
    assert not (folder / "report.html").exists()

"""A chat completions server that takes so long for each answer: `python -m mappa.bench.endpoint SECONDS`.

In a process of its own, so that what it costs is not taken for the judge's. It prints its URL.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys

from aiohttp import web


async def serve(seconds: float) -> None:
    """Answer until killed, whatever is asked with a verdict of 8."""

    async def complete(request: web.Request) -> web.Response:
        asked = await request.json()
        await asyncio.sleep(seconds)
        code = re.findall(r"\b[0-9a-f]{6}\b", asked["messages"][-1]["content"])[-1:]  # of the request
        verdict = {"reason": "sound work", "code": "".join(code), "process_score": 8}
        message = {"role": "assistant", "content": json.dumps(verdict)}
        choice = {"index": 0, "finish_reason": "stop", "message": message}
        usage = {"prompt_tokens": 50, "completion_tokens": 7, "total_tokens": 57}
        whole = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return web.json_response(whole | {"usage": usage})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
    await site.start()
    host, port = runner.addresses[0]
    print(f"http://{host}:{port}/v1", flush=True)  # noqa: T201 command-line output
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))

"""The ZMTP client: against libzmq, and against bytes that no honest peer would send."""

from __future__ import annotations

import asyncio
import random

import pytest
import zmq
import zmq.asyncio

from sandbox.channels import _TEXTS
from sandbox.zmtp import Allowance, Connection, Decoder, encode, handshake

HELLO = handshake("ROUTER")
MESSAGES = [[b"one"], [b"", b"two", b"x" * 300], [b"y" * 70_000], [b""]]


def decode(data: bytes, max_bytes: int = 100_000, chunk: int = 1 << 20) -> list[list[bytes] | None]:
    decoder = Decoder(max_bytes)
    return [m for i in range(0, len(data), chunk) for m in decoder.feed(data[i : i + chunk])]


@pytest.mark.parametrize("chunk", [1, 7, 4096, 1 << 20])
def test_messages_come_out_as_they_went_in(chunk):
    data = HELLO + b"".join(map(encode, MESSAGES))
    assert decode(data, chunk=chunk) == [None, *MESSAGES]


@pytest.mark.parametrize("chunk", [5, 4096, 1 << 20])
@pytest.mark.parametrize(
    "large",
    [[b"z" * 200_000], [b"a", b"z" * 200_000, b"b"], [b"z" * 60_000] * 5, [b""] * 1000, [b"z" * 60_000] * 2 + [b""]],
    ids=["frame", "middle", "sum", "count", "end"],
)
def test_what_is_too_large_is_left_out_and_the_next_is_not(large, chunk):
    assert decode(HELLO + encode(large) + encode([b"next"]), chunk=chunk) == [None, [], [b"next"]]


def test_a_decoder_never_holds_more_than_one_message():
    decoder = Decoder(10_000)
    announced = b"\x02" + (1 << 60).to_bytes(8, "big")  # a frame that never ends
    assert list(decoder.feed(HELLO + announced)) == [None, []]
    for _ in range(1000):
        assert list(decoder.feed(b"z" * 65_536)) == []
    assert len(decoder._buffer) == 0


def test_random_bytes_are_no_error():
    source = random.Random(0)
    for _ in range(200):
        decode(HELLO + source.randbytes(source.randrange(2000)))


async def test_libzmq_understands_it(tmp_path):
    with zmq.asyncio.Context() as context, context.socket(zmq.ROUTER) as router, context.socket(zmq.XPUB) as publisher:
        router.bind(f"ipc://{tmp_path}/r")
        publisher.bind(f"ipc://{tmp_path}/p")
        news = asyncio.Event()
        dealer, subscriber = Connection("DEALER", 1 << 20, news.set), Connection("SUB", 1 << 20, news.set)
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: dealer, f"{tmp_path}/r")
        await loop.create_unix_connection(lambda: subscriber, f"{tmp_path}/p")
        dealer.send([b"", b"question"])
        who, *question = await asyncio.wait_for(router.recv_multipart(), 20)
        assert question == [b"", b"question"]
        assert await asyncio.wait_for(publisher.recv(), 20) == b"\1"
        await publisher.send_multipart([b"news", b"n" * 100_000])
        await router.send_multipart([who, b"", b"answer"])
        await asyncio.sleep(0.2)
        assert (len(dealer.inbox), len(subscriber.inbox)) == (0, 0)  # nobody listens
        for connection in (dealer, subscriber):
            connection.listen(Allowance(1 << 20, 10))
        while not (dealer.inbox and subscriber.inbox):
            news.clear()
            await asyncio.wait_for(news.wait(), 20)
        assert dealer.take() == [b"", b"answer"]
        assert subscriber.take() == [b"news", b"n" * 100_000]
        dealer.close()
        subscriber.close()


async def test_whoever_sends_too_much_is_read_no_further(tmp_path):
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(HELLO)
        while True:
            writer.write(encode([b"x" * 50_000]))
            await writer.drain()
            sent += 50_000

    server = await asyncio.start_unix_server(flood, f"{tmp_path}/s")
    connection = Connection("DEALER", 1 << 20, lambda: None)
    await asyncio.get_running_loop().create_unix_connection(lambda: connection, f"{tmp_path}/s")
    allowance = Allowance(1 << 20, 1000)
    connection.listen(allowance)
    for _ in range(500):
        await asyncio.sleep(0.01)
        while connection.inbox:
            connection.take()
        if allowance.spent:
            break
    assert allowance.spent
    before = sent
    await asyncio.sleep(0.3)
    assert sent - before < 1 << 20  # what fits into the pipe
    assert sent < 4 << 20
    connection.close()
    server.close()


@pytest.mark.parametrize("piece", [b'"', b"\\", b'\\"', b'"\\', b"a", b"[", b'"a",', b"\xff"])
def test_a_megabyte_of_anything_is_weighed_in_linear_time(piece):
    _TEXTS.sub(b"", piece * (1_000_000 // len(piece)))
    _TEXTS.sub(b"", b'"' + piece * (1_000_000 // len(piece)))

"""A backend that does what the body of each request tells it to, step by step.

    {"model": "a", "do": [["head", "Content-Length: 10"], ["say", "hello", 2], ["close"]]}

    head LINES...     the head of an answer: 200, unless the first line is a status line
    say TEXT TIMES    the text, in latin-1, so many times (once if not given)
    burst TEXT TIMES  the same in one go
    chunk TEXT TIMES  the same as chunks; `end` is the last one
    wait SECONDS, left   for so long, or until the client has left
    close, reset, die    its connection, or itself

Without `do` it answers with the length and the SHA-256 of the body. The standard library only, so that it starts fast.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import socket
import struct
import sys
from typing import Any

Steps = list[list[Any]]


def counted(text: str) -> Steps:
    """Steps to a plain answer."""
    return [["head", f"Content-Length: {len(text)}"], ["say", text]]


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"GET "):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                continue
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
            body = await reader.readexactly(length)
            wish = json.loads(body) if length < 1 << 16 else {}
            told = json.dumps({"length": length, "sha256": hashlib.sha256(body).hexdigest()})
            for step, *words in wish.get("do") or counted(told):
                await take(step, words, reader, writer)
    except (OSError, asyncio.IncompleteReadError):
        pass  # it has left
    finally:
        writer.close()


async def take(step: str, words: list[Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if step == "head":
        lines = words if words and words[0].startswith("HTTP/") else ["HTTP/1.1 200 OK", *words]
        writer.write("".join(f"{line}\r\n" for line in (*lines, "")).encode("latin-1"))
    elif step in ("say", "chunk"):
        text, times = words[0].encode("latin-1"), words[1] if len(words) > 1 else 1
        for _ in range(times):
            writer.write(text if step == "say" else b"%x\r\n%b\r\n" % (len(text), text))
            await writer.drain()
    elif step == "burst":
        writer.write(words[0].encode("latin-1") * words[1])
    elif step == "end":
        writer.write(b"0\r\n\r\n")
    elif step == "wait":
        await asyncio.sleep(words[0])
    elif step == "left":
        await reader.read()
    elif step == "die":
        await writer.drain()
        os._exit(1)
    else:
        if step == "reset":
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        raise ConnectionResetError


async def main() -> None:
    port = int(sys.argv[sys.argv.index("--port") + 1])
    async with await asyncio.start_server(serve, "127.0.0.1", port, backlog=4096, limit=1 << 20) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())

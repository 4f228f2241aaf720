"""A server that says what it was asked: HTTP/1.1 with keep-alive, and WebSocket; each answer is a JSON object.

Run as a program: `http_origin.py PORT`. It listens on all addresses and prints `ready`.
"""

import asyncio
import base64
import hashlib
import json
import sys

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, version = head[0].split(" ")
            headers = [line.split(": ", 1) if ": " in line else [line.rstrip(":"), ""] for line in head[1:] if line]
            known = {name.lower(): value for name, value in headers}
            body = b""
            if "content-length" in known:
                body = await reader.readexactly(int(known["content-length"]))
            elif known.get("transfer-encoding") == "chunked":
                while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
                    body += (await reader.readexactly(size + 2))[:-2]
                await reader.readuntil(b"\r\n")
            if known.get("upgrade", "").lower() == "websocket":
                await websocket(reader, writer, known["sec-websocket-key"].encode())
                return
            told = {"method": method, "path": path, "version": version, "headers": headers, "body": body.decode()}
            told["peer"] = writer.get_extra_info("peername")[0]
            text = json.dumps(told).encode()
            reply = b"HTTP/1.1 200 Fine\r\nContent-Type: application/json\r\nX-Origin-Case: kept\r\n"
            reply += b"Content-Length: %d\r\n\r\n" % len(text)
            writer.write(reply + (b"" if method == "HEAD" else text))
            await writer.drain()
            if version == "HTTP/1.0" or known.get("connection") == "close":
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        return
    finally:
        writer.close()


async def websocket(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> None:
    """The handshake; then every byte is sent back."""
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n")
    writer.write(b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n")
    while data := await reader.read(4096):
        writer.write(data)
        await writer.drain()


async def main(port: int) -> None:
    async with await asyncio.start_server(answer, ["0.0.0.0", "::"], port, limit=1 << 20) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))

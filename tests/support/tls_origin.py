"""A server over TLS that says which server name it was asked for: HTTP/1.1 with keep-alive.

Run as a program: `tls_origin.py PORT FOLDER`; the folder has `tls.crt` and `tls.key`. It prints `ready`.
"""

import asyncio
import json
import ssl
import sys
from pathlib import Path


def context(folder: Path, names: "dict[int, str]") -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(folder / "tls.crt", folder / "tls.key")

    def note(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        names[id(connection)] = name or ""

    made.sni_callback = note  # type: ignore[assignment]
    return made


async def main(port: int, folder: Path) -> None:
    names: dict[int, str] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                told = {"request": head.split("\r\n")[0], "sni": names.get(id(writer.get_extra_info("ssl_object")), "")}
                text = json.dumps(told).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(text) + text)
                await writer.drain()
                if "connection: close" in head.lower():
                    return
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.close()

    async with await asyncio.start_server(answer, ["0.0.0.0", "::"], port, ssl=context(folder, names)) as server:
        print("ready", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), Path(sys.argv[2])))

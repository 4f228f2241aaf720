"""A gRPC server and client whose messages are bytes: services `shop.Orders` and `shop.Admin`, methods Get and Watch.

Run as a program: `grpc_origin.py serve PORT`, or `grpc_origin.py call HOST:PORT METHOD [stream]`, which prints the code
and what came.
"""

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc

METHODS = ("Get", "Watch")


def serve(port: int) -> None:
    def get(request: bytes, _context: grpc.ServicerContext) -> bytes:
        return b"got " + request

    def watch(request: bytes, _context: grpc.ServicerContext) -> Iterator[bytes]:
        for number in range(3):
            yield b"%d " % number + request

    handlers = {
        "Get": grpc.unary_unary_rpc_method_handler(get),
        "Watch": grpc.unary_stream_rpc_method_handler(watch),
    }
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler(name, handlers) for name in ("shop.Orders", "shop.Admin")]
    )
    assert server.add_insecure_port(f"[::]:{port}") == port
    server.start()
    print("ready", flush=True)
    server.wait_for_termination()


def call(target: str, method: str, *, stream: bool) -> None:
    with grpc.insecure_channel(target) as channel:
        try:
            if stream:
                print("OK", *(one.decode() for one in channel.unary_stream(method)(b"x", timeout=10)), sep="|")
            else:
                print("OK", channel.unary_unary(method)(b"x", timeout=10).decode(), sep="|")
        except grpc.RpcError as error:
            print(error.code().name, error.details(), sep="|")


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(int(sys.argv[2]))
    else:
        call(sys.argv[2], sys.argv[3], stream=sys.argv[4:] == ["stream"])

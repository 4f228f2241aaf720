"""The compiler: run as a script by the distribution's Python, where bcc is; the only file that imports it.

One JSON request on standard input:  {"text", "include", "shim", "arguments"}
One JSON answer on standard output:  {"programs": {name: instructions in base64}} or {"error": text}
It lives for one compilation, because LLVM keeps a hundred megabytes and may abort.
"""

import base64
import json
import os
import sys

# bcc includes its own kernel ABI and helpers before any text. Their include guards are set, so that the programs
# see what they declare themselves and nothing else; of bcc's macros its footer needs this one.
_ARGUMENTS = (
    "-D__BPF_HELPERS_H",
    "-D_UAPI__LINUX_BPF_H__",
    "-D__LINUX_BPF_H__",
    "-DBCC_SEC(NAME)=__attribute__((section(NAME),used))",
    "-DPROGRAM=",
    "-Wall",
    "-Werror",
)


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    os.environ["BCC_KERNEL_SOURCE"] = request["shim"]
    out = os.dup(1)
    os.dup2(2, 1)  # what LLVM prints is no answer
    try:
        import bcc
        from bcc.libbcc import lib
    except ImportError as error:
        answer: dict[str, object] = {"missing": str(error)}
    else:
        arguments = [*_ARGUMENTS, "-I" + request["include"], *request["arguments"]]
        try:
            module = bcc.BPF(text=request["text"].encode(), cflags=arguments)
        except Exception as error:  # noqa: BLE001  # bcc raises Exception itself
            answer = {"error": str(error)}
        else:
            programs = {}
            for index in range(lib.bpf_num_functions(module.module)):
                name = lib.bpf_function_name(module.module, index)
                size = lib.bpf_function_size(module.module, name)
                start = lib.bpf_function_start(module.module, name)
                programs[name.decode()] = base64.b64encode(_bytes(start, size)).decode()
            answer = {"programs": programs}
    with os.fdopen(out, "w") as stream:
        json.dump(answer, stream)
    sys.stderr.flush()
    os._exit(0)  # bcc's clean-up at exit is slow and pointless here


def _bytes(start: int, size: int) -> bytes:
    import ctypes

    return ctypes.string_at(start, size)


if __name__ == "__main__":
    main()

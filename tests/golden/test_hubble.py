"""What `hubble` writes about the flows in `hubble/flows.jsonl`, in every format, stays the same to the letter.

Programs and eyes are used to it. With CPLANE_REWRITE_GOLDEN=1 the files are written anew; what changed is then for a
review to judge.
"""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from cplane.hubble.cli.main import cli

HERE = Path(__file__).parent / "hubble"
REWRITE = os.environ.get("CPLANE_REWRITE_GOLDEN") == "1"
INPUT = HERE / "flows.jsonl"
COMMANDS = {
    "compact.txt": ("observe",),
    "compact-all-options.txt": (
        *("observe", "--print-node-name", "--print-policy-names", "--numeric", "--color", "always"),
        *("--time-format", "RFC3339Nano"),
    ),
    "dict.txt": ("observe", "-o", "dict"),
    "dict-all-options.txt": ("observe", "-o", "dict", "--print-node-name", "--print-policy-names"),
    "table.txt": ("observe", "-o", "table"),
    "table-all-options.txt": ("observe", "-o", "tab", "--print-node-name", "--print-policy-names"),
    "jsonpb.jsonl": ("observe", "-o", "jsonpb"),
    "masked.jsonl": ("observe", "-o", "json", "--field-mask", "time,verdict,source.pod_name,l4.TCP"),
    "graph.dot": ("graph",),
    "graph.json": ("graph", "-o", "json"),
    "graph.mmd": ("graph", "-o", "mermaid"),
    "top.txt": ("top",),
    "graph-dropped.dot": ("graph", "--verdict", "DROPPED"),
}


@pytest.fixture(autouse=True)
def beside_the_input(monkeypatch: pytest.MonkeyPatch):
    """Where the input is, it has the same name on every machine."""
    monkeypatch.chdir(HERE)


def written(*words: str) -> str:
    command = [*words, "--input-file", INPUT.name]
    done = CliRunner().invoke(cli, command, prog_name="hubble")
    assert (done.exit_code, done.stderr) == (0, "")
    return done.stdout_bytes.decode()


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_what_is_written_is_what_was_written(name: str):
    path, text = HERE / name, written(*COMMANDS[name])
    if REWRITE:
        path.write_text(text)
    assert text == path.read_text()


def test_nothing_that_a_terminal_acts_upon_comes_out_of_names():
    for name, words in COMMANDS.items():
        text = written(*words).replace("\n", "")
        assert name == "compact-all-options.txt" or text.isprintable(), name


def test_json_says_what_the_file_said():
    lines = [json.loads(line) for line in written(*COMMANDS["jsonpb.jsonl"]).splitlines()]
    assert lines == [json.loads(line) for line in INPUT.read_text().splitlines()]

"""Log lines."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from cplane.telemetry.log import Seldom, configure, line, logger


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """Other tests find logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def test_a_line_is_one_line_with_time_level_and_event_first():
    out = io.StringIO()
    configure("info", "text", out)
    logger("engine").info(line("command", kind="policy.apply", error='a "b"\nc', took_ms=1.5))
    text = out.getvalue()
    assert text.count("\n") == 1
    assert text.startswith("timestamp=")
    assert 'level=info event=command logger=cplane.engine kind=policy.apply error="a \\"b\\"\\nc" took_ms=1.5' in text


def test_json_lines_are_json_and_libraries_speak_it_too():
    out = io.StringIO()
    configure("info", "json", out)
    logger("engine").warning(line("round", table="policy", upserts=3))
    logging.getLogger("grpclib.server").error("Application error")
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["level"], first["event"], first["table"], first["upserts"]) == (
        "warning",
        "round",
        "policy",
        3,
    )
    assert list(first)[:3] == ["timestamp", "level", "event"]
    assert (second["level"], second["logger"]) == ("error", "grpclib.server")


def test_lines_below_the_level_are_not_written_and_structlog_loggers_obey_too():
    out = io.StringIO()
    configure("warning", "text", out)
    logger("engine").debug(line("x"))
    logger("engine").info(line("x"))
    structlog.get_logger("cplane.other").info("x")
    assert out.getvalue() == ""
    logger("engine").error(line("y"))
    assert out.getvalue().count("\n") == 1


def test_an_exception_stays_on_one_line():
    out = io.StringIO()
    configure("info", "json", out)
    try:
        raise ZeroDivisionError("why")
    except ZeroDivisionError:
        logging.getLogger("x").exception("failed")
    assert out.getvalue().count("\n") == 1
    assert "ZeroDivisionError: why" in json.loads(out.getvalue())["exception"]


def test_too_many_open_files_are_told_seldom_and_all_else_always():
    def record(message: str, at: float) -> logging.LogRecord:
        made = logging.LogRecord("asyncio", logging.ERROR, "", 0, message, None, None)
        made.created = at
        return made

    seldom, full, other = Seldom(), "socket.accept() out of system resource\nsocket: 7", "Task was destroyed"
    told = [seldom.filter(record(full, at)) for at in (100.0, 100.1, 109.9, 110.0, 110.1, 50.0)]
    assert told == [True, False, False, True, False, True]
    assert [seldom.filter(record(other, 100.0)) for _ in range(2)] == [True, True]


def test_what_asyncio_says_a_hundred_times_is_one_line():
    out = io.StringIO()
    configure("info", "json", out)
    for _ in range(100):
        logging.getLogger("asyncio").error("socket.accept() out of system resource")
    assert out.getvalue().count("\n") == 1

"""Connections to a database that has logs."""

import socket

import psycopg
import pytest

from cplane.eventlog.database import Place, connect
from tests.support.exhausted import files_left


def test_a_driver_that_may_open_no_file_of_its_own_fails_as_it_does_otherwise():
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = Place.of(f"postgresql://u@127.0.0.1:{server.getsockname()[1]}/d", "n")
        with files_left(1), pytest.raises(psycopg.OperationalError, match="Too many open files"):
            connect(place, write=True)

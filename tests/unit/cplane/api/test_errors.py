"""How errors are told over gRPC."""

import json

import pytest
from grpclib.const import Status

from cplane import errors as ours
from cplane.api.errors import TRAILER, refuse
from cplane.config.documents import BadDocuments
from cplane.config.problems import Problem
from datapath import errors as datapath


@pytest.mark.parametrize(
    ("family", "status"),
    [
        ("Rejected", Status.INVALID_ARGUMENT),
        ("Conflict", Status.ABORTED),
        ("NotFound", Status.NOT_FOUND),
        ("Unavailable", Status.UNAVAILABLE),
        ("Corrupt", Status.DATA_LOSS),
    ],
)
def test_every_family_has_its_status_in_both_libraries(family: str, status: Status):
    for module in (ours, datapath):
        refusal = refuse(getattr(module, family)("why"))
        assert refusal is not None
        assert (refusal.status, refusal.message) == (status, "why")


def test_a_mistake_of_ours_is_an_internal_error():
    refusal = refuse(ours.Bug(ZeroDivisionError("by zero")))
    assert refusal is not None
    assert refusal.status is Status.INTERNAL


def test_what_is_no_refusal_is_a_bug():
    assert refuse(ZeroDivisionError()) is None


def test_programs_get_the_code_and_every_error_with_its_place():
    refusal = refuse(BadDocuments((Problem(2, "spec.x", "no"), Problem(0, "", "nothing")), "policy.invalid"))
    assert refusal is not None
    assert refusal.message == "document 2, spec.x: no; nothing"
    assert json.loads(refusal.trailers[TRAILER]) == {
        "code": "policy.invalid",
        "message": "document 2, spec.x: no; nothing",
        "errors": [
            {"document": 2, "path": "spec.x", "message": "no"},
            {"document": 0, "path": "", "message": "nothing"},
        ],
        "more": 0,
    }


@pytest.mark.parametrize("text", ["no", "é" * 10_000, "\ud800"])
def test_thousands_of_errors_fit_into_headers_and_the_rest_is_counted(text: str):
    refusal = refuse(BadDocuments(tuple(Problem(n, "p" * 5_000, text) for n in range(3_000))))
    assert refusal is not None
    trailer = refusal.trailers[TRAILER]
    assert len(refusal.message) <= 2048
    assert len(trailer) <= 4096
    told = json.loads(trailer)
    assert told["errors"]
    assert len(told["errors"]) + told["more"] == 3_000

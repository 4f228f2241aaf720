"""Lists of metrics, in upstream's words."""

import pytest

from cplane.config.metrics import BadMetric, Contexts, WantedMetric, parse_metric, parse_metrics


def test_a_metric_has_options_contexts_and_labels() -> None:
    assert parse_metric("tcp") == WantedMetric("tcp")
    assert parse_metric("dns:query;ignoreAAAA") == WantedMetric("dns", frozenset({"query", "ignoreAAAA"}))
    found = parse_metric(
        "drop:sourceContext=pod;destinationContext=workload-name|reserved-identity|dns;"
        "sourceEgressContext=ip;labelsContext=source_ip,traffic_direction"
    )
    assert found.contexts == Contexts(
        source=("pod",),
        source_egress=("ip",),
        destination=("workload-name", "reserved-identity", "dns"),
        labels=("source_ip", "traffic_direction"),
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("dorp", "there is no metric 'dorp'; did you mean drop?"),
        ("", "there is no metric ''; known are dns, drop, "),
        ("sctp", "there is no metric 'sctp'"),
        ("drop:query", "there is no option 'query'"),
        ("dns:querry", "there is no option 'querry'; did you mean query?"),
        ("drop:sourceContext=pods", "'pods' is not a context; did you mean pod?"),
        ("drop:sourceContext=pod|", "'' is not a context; known are "),
        ("drop:labelsContext=source_port", "'source_port' is not a label; did you mean source_pod?"),
        ("dns:query=no", "there is no option 'query=no'"),
    ],
)
def test_what_cannot_be_had_is_refused_with_what_could_be_meant(text: str, reason: str) -> None:
    with pytest.raises(BadMetric) as refused:
        parse_metric(text)
    assert reason in str(refused.value)


@pytest.mark.parametrize(("texts", "reason"), [(["tcp", "tcp:"], "there twice"), (["http", "httpV2"], "choose one")])
def test_metrics_that_would_count_under_one_name_are_refused(texts: list[str], reason: str) -> None:
    with pytest.raises(BadMetric, match=reason):
        parse_metrics(texts)

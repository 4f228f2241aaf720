"""Series are bounded, and are told in Prometheus' words."""

from prometheus_client.parser import text_string_to_metric_families

from cplane.telemetry.metrics import OVERFLOW, Counters, Histograms, cardinality, exposition, process


def samples(*families: Counters | Histograms) -> dict[tuple[str, ...], float]:
    text, _ = exposition([*(f.metric() for f in families), *cardinality(families)], "")
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_a_label_set_is_counted_for_itself() -> None:
    drops = Counters("x_drops_total", "Drops.", ("reason",))
    drops.at("denied").value += 3
    drops.at("other").value += 1
    drops.at("denied").value += 1
    found = samples(drops)
    assert found["x_drops_total", "denied"] == 4
    assert found["x_drops_total", "other"] == 1
    assert found["cplane_metrics_label_sets", "x_drops_total"] == 2
    assert found["cplane_metrics_overflowed_total", "x_drops_total"] == 0


def test_what_finds_no_room_is_counted_in_one_set_and_said_so() -> None:
    drops = Counters("x_drops_total", "Drops.", ("pod", "reason"), limit=2)
    for number in range(10):
        drops.at(f"pod{number}", "denied").value += 1
    found = samples(drops)
    assert found["x_drops_total", "pod0", "denied"] == 1
    assert found["x_drops_total", OVERFLOW, OVERFLOW] == 8
    assert found["cplane_metrics_overflowed_total", "x_drops_total"] == 8
    assert found["cplane_metrics_label_sets", "x_drops_total"] == 2


def test_a_forgotten_set_makes_room() -> None:
    drops = Counters("x_drops_total", "Drops.", ("pod",), limit=1)
    drops.at("a").value += 1
    drops.forget(("a",))
    drops.forget(("a",))
    drops.at("b").value += 1
    assert ("x_drops_total", "a") not in samples(drops)
    assert samples(drops)["x_drops_total", "b"] == 1


def test_a_histogram_counts_what_is_not_above_each_bound() -> None:
    took = Histograms("x_seconds", "Time.", ("way",), bounds=(0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 5.0):
        took.at("in").observe(value)
    found = samples(took)
    assert [found["x_seconds_bucket", bound, "in"] for bound in ("0.1", "1.0", "+Inf")] == [2, 3, 4]
    assert found["x_seconds_count", "in"] == 4
    assert found["x_seconds_sum", "in"] == 5.65


def test_hostile_labels_stay_readable() -> None:
    names = Counters("x_names_total", "Names.", ("name",))
    for name in ('a"\n\\b', "\ud800", "x" * 100_000):
        names.at(name).value += 1
    found = {key[1] for key in samples(names) if key[0] == "x_names_total"}
    assert 'a"\n\\b' in found and "?" in found
    assert max(map(len, found)) <= 256


def test_a_client_that_asks_for_openmetrics_gets_it() -> None:
    drops = Counters("x_drops_total", "Drops.", ())
    drops.at().value += 1
    text, kind = exposition([drops.metric()], "application/openmetrics-text; version=1.0.0")
    assert kind.startswith("application/openmetrics-text")
    assert text.endswith(b"# EOF\n")
    assert exposition([drops.metric()], "")[1].startswith("text/plain")


def test_the_process_says_what_it_uses() -> None:
    names = {metric.name for metric in process("cilium")()}
    assert {"cilium_process_cpu_seconds", "cilium_process_resident_memory_bytes", "cilium_process_open_fds"} <= names

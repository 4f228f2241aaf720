"""Wrong requests get the specification's error codes, right ones pass."""

import pytest

from cplane.api.cni import wire

ENVIRONMENT = {"CNI_CONTAINERID": "box-1", "CNI_NETNS": "/run/netns/x", "CNI_IFNAME": "eth0", "CNI_ARGS": ""}
CONFIG = {"cniVersion": "1.1.0", "name": "net", "type": "cplane-cni"}


def refusal(verb="ADD", config=None, **environment):
    with pytest.raises(wire.CniError) as caught:
        wire.check(verb, {**ENVIRONMENT, **environment}, CONFIG if config is None else config)
    return caught.value


@pytest.mark.parametrize("version", wire.VERSIONS)
def test_every_version_can_add_and_delete(version):
    for verb in ("ADD", "DEL"):
        config = {**CONFIG, "cniVersion": version}
        assert wire.check(verb, ENVIRONMENT, config) == config


@pytest.mark.parametrize(
    ("verb", "version", "exists"),
    [
        *(("CHECK", version, version >= "0.4.0") for version in wire.VERSIONS),
        *(("GC", version, version >= "1.1.0") for version in wire.VERSIONS),
        *(("STATUS", version, version >= "1.1.0") for version in wire.VERSIONS),
    ],
)
def test_a_verb_exists_from_its_version_on(verb, version, exists):
    config = {**CONFIG, "cniVersion": version, "prevResult": {}, "cni.dev/valid-attachments": []}
    if exists:
        wire.check(verb, ENVIRONMENT, config)
    else:
        error = refusal(verb, config)
        assert error.code == wire.INCOMPATIBLE_VERSION
        assert verb in error.msg


@pytest.mark.parametrize("version", [None, "0.1.0", "0.2.0", "2.0.0", "1.0", "", 1, ["1.0.0"]])
def test_other_versions_are_incompatible_and_ours_are_listed(version):
    config = {key: value for key, value in {**CONFIG, "cniVersion": version}.items() if value is not None}
    error = refusal(config=config)
    assert error.code == wire.INCOMPATIBLE_VERSION
    assert "0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0" in error.details


@pytest.mark.parametrize("verb", ["", "add", "VERSIONS", "REMOVE"])
def test_an_unknown_verb_is_an_invalid_environment(verb):
    error = refusal(verb)
    assert error.code == wire.INVALID_ENVIRONMENT
    assert "CNI_COMMAND" in error.msg


@pytest.mark.parametrize(
    ("verb", "variable", "required"),
    [
        ("ADD", "CNI_CONTAINERID", True),
        ("ADD", "CNI_NETNS", True),
        ("ADD", "CNI_IFNAME", True),
        ("CHECK", "CNI_NETNS", True),
        ("DEL", "CNI_CONTAINERID", True),
        ("DEL", "CNI_IFNAME", True),
        ("DEL", "CNI_NETNS", False),
        ("ADD", "CNI_ARGS", False),
    ],
)
def test_missing_variables_are_named(verb, variable, required):
    config = {**CONFIG, **({"prevResult": {}} if verb == "CHECK" else {})}
    if not required:
        wire.check(verb, {**ENVIRONMENT, variable: ""}, config)
        return
    error = refusal(verb, config, **{variable: ""})
    assert error.code == wire.INVALID_ENVIRONMENT
    assert variable in error.msg


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CNI_CONTAINERID", "-box"),
        ("CNI_CONTAINERID", "box/1"),
        ("CNI_CONTAINERID", "bóx"),
        ("CNI_CONTAINERID", "b" * 161),
        ("CNI_IFNAME", "."),
        ("CNI_IFNAME", ".."),
        ("CNI_IFNAME", "eth0:1"),
        ("CNI_IFNAME", "eth/0"),
        ("CNI_IFNAME", "eth 0"),
        ("CNI_IFNAME", "sixteencharacter"),
        ("CNI_IFNAME", "ä" * 8),
        ("CNI_IFNAME", "eth%d"),
        ("CNI_IFNAME", "all"),
        ("CNI_IFNAME", "default"),
        ("CNI_IFNAME", "eth\udcff"),
        ("CNI_ARGS", "K8S_POD_NAME=\udcff"),
        ("CNI_NETNS", "/run/\0"),
        ("CNI_NETNS", "run/netns/x"),
    ],
)
def test_malformed_variables_are_named(variable, value):
    error = refusal(**{variable: value})
    assert error.code == wire.INVALID_ENVIRONMENT
    assert variable in error.msg


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("name", "", wire.INVALID_CONFIG),
        ("name", "-net", wire.INVALID_CONFIG),
        ("name", "n" * 64, wire.INVALID_CONFIG),
        ("name", 7, wire.INVALID_CONFIG),
        ("mtu", "1500", wire.INVALID_CONFIG),
        ("mtu", 1279, wire.INVALID_CONFIG),
        ("mtu", True, wire.INVALID_CONFIG),
        ("prevResult", {"ips": []}, wire.INVALID_CONFIG),
        ("prevResult", [], wire.INVALID_CONFIG),
        ("bridge", "cni0", wire.UNSUPPORTED_FIELD),
        ("ipMasq", True, wire.UNSUPPORTED_FIELD),
        ("ipam", {"type": "host-local"}, wire.UNSUPPORTED_FIELD),
    ],
)
def test_a_configuration_that_cannot_be_served_is_refused_by_field(field, value, code):
    error = refusal(config={**CONFIG, field: value})
    assert error.code == code
    assert field in error.msg


def test_fields_of_the_specification_of_runtimes_and_of_others_pass():
    extra = {
        "cniVersions": ["1.0.0"],
        "args": {"somebody": 1},
        "ipMasq": False,
        "ipam": {},
        "dns": {},
        "capabilities": {"ips": True},
        "runtimeConfig": {},
        "disableCheck": True,
        "example.com/mine": 1,
        "socket": "/x",
        "mtu": 9000,
    }
    wire.check("ADD", ENVIRONMENT, {**CONFIG, **extra})


def test_check_needs_an_earlier_result_and_gc_a_list():
    assert "prevResult" in refusal("CHECK").msg
    error = refusal("GC")
    assert error.code == wire.INVALID_CONFIG
    assert "cni.dev/valid-attachments" in error.msg
    for key in wire.VALID_ATTACHMENTS:  # libcni writes null when there is no attachment
        wire.check("GC", {}, {**CONFIG, "cniVersion": "1.1.0", key: None})


@pytest.mark.parametrize("config", [None, [], "text", 7])
def test_what_is_no_object_cannot_be_decoded(config):
    with pytest.raises(wire.CniError) as caught:
        wire.check("ADD", ENVIRONMENT, config)
    assert caught.value.code == wire.DECODE_FAILURE

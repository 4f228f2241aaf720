"""What CNI plugin and agent agree on: versions, error codes, the shape of a request. Standard library only.

A request is two lines of JSON, `{"verb": …, "env": {…}}` and the network configuration; the answer is a
line with the plugin's exit status and a line with the document to print, which may be empty. So the plugin
has to read neither. The agent checks requests with `check`; without an agent the plugin does, and gives the
same answer. Nothing is imported here: the plugin's start is part of a pod's start.

Source: the CNI specification, versions 0.3.0 to 1.1.0.
"""

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS")  # VERSION needs no agent
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}

INCOMPATIBLE_VERSION = 1
UNSUPPORTED_FIELD = 2
CONTAINER_UNKNOWN = 3
INVALID_ENVIRONMENT = 4
IO_FAILURE = 5
DECODE_FAILURE = 6
INVALID_CONFIG = 7
TRY_AGAIN_LATER = 11
NOT_AVAILABLE = 50  # STATUS: ADD would fail
LIMITED_CONNECTIVITY = 51  # STATUS: ADD would fail, and what runs already may be affected
REFUSED = 100  # ours: the agent understood and will not
UNHEALTHY = 101  # ours: CHECK found something missing

DEFAULT_SOCKET = "/run/cplane/cni.sock"
CONFIG_BYTES_MAX = 1 << 19
ANSWER_BYTES_MAX = 1 << 19
ATTACHMENT_CHARS_MAX = 160  # container id and interface; with the network they fit into a link's alias
NAME_CHARS_MAX = 63  # of a network

ENVIRONMENT = ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS")  # what the agent is told
VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")  # libcni sends both

_REQUIRED = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),
}
_OF_THE_SPECIFICATION = {"cniVersion", "cniVersions", "name", "type", "args", "ipMasq", "ipam", "dns"}
_OF_RUNTIMES = {"capabilities", "runtimeConfig", "prevResult", "disableCheck", "disableGC"}
_OURS = {"socket", "mtu"}
_FIELDS = frozenset(_OF_THE_SPECIFICATION | _OF_RUNTIMES | _OURS)
_MTU_MIN, _MTU_MAX = 1280, 65_535  # below 1280 IPv6 is off (RFC 8200 §5)
_INTERFACE_BYTES_MAX = 15  # IFNAMSIZ of linux/if.h without its end; the kernel puts a number where a name has '%'
_INTERFACES_REFUSED = (".", "..", "all", "default")  # the last two are folders of net.ipv4.conf (net/ipv4/devinet.c)


class CniError(Exception):
    """A request cannot be served; the runtime is told so in the specification's form."""

    def __init__(self, code: int, msg: str, details: str = "") -> None:
        super().__init__(msg)
        self.code, self.msg, self.details = code, msg, details

    def document(self, config: object) -> dict[str, object]:
        """The error as the specification wants it, in the version of the configuration where that is known."""
        given = config.get("cniVersion") if isinstance(config, dict) else None
        version = given if given in VERSIONS else VERSIONS[-1]
        body: dict[str, object] = {"cniVersion": version, "code": self.code, "msg": self.msg}
        if self.details:
            body["details"] = self.details
        return body


def check(verb: str, environment: dict[str, str], config: object) -> dict[str, object]:
    """The network configuration, right as far as it can be judged without the agent. Raises CniError."""
    check_text({"CNI_COMMAND": verb, **environment})
    if verb not in VERBS:
        known = ", ".join((*VERBS, "VERSION"))
        raise CniError(INVALID_ENVIRONMENT, f"CNI_COMMAND is {verb!r} and not one of {known}")
    missing = [name for name in _REQUIRED.get(verb, ()) if not environment.get(name)]
    if missing:
        raise CniError(INVALID_ENVIRONMENT, f"environment variables are missing: {', '.join(missing)}")
    if not isinstance(config, dict):
        raise CniError(DECODE_FAILURE, "the network configuration on standard input is not a JSON object")
    _check_version(verb, config.get("cniVersion"))
    _check_config(verb, config)
    if verb in _REQUIRED:
        _check_attachment(environment["CNI_CONTAINERID"], environment["CNI_IFNAME"])
    if verb in {"ADD", "CHECK"} and not environment["CNI_NETNS"].startswith("/"):
        raise CniError(INVALID_ENVIRONMENT, f"CNI_NETNS {environment['CNI_NETNS']!r} is not an absolute path")
    return config


def check_text(environment: dict[str, str]) -> None:
    """The variables are text that paths and JSON can have in them. Raises CniError, which names one that is not."""
    for name, value in environment.items():
        # What is no UTF-8 in an environment becomes half of a pair that means nothing by itself (PEP 383).
        if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value):
            raise CniError(INVALID_ENVIRONMENT, f"{name} {value!r}: it has bytes that are no UTF-8, or zero")


def _check_version(verb: str, version: object) -> None:
    supported = f"this plugin supports {', '.join(VERSIONS)}"
    if version is None:
        raise CniError(INCOMPATIBLE_VERSION, "cniVersion is missing, which means 0.1.0", supported)
    if version not in VERSIONS:
        raise CniError(INCOMPATIBLE_VERSION, f"cniVersion {version!r} is not supported", supported)
    since = SINCE.get(verb)
    if since is not None and VERSIONS.index(str(version)) < VERSIONS.index(since):
        raise CniError(INCOMPATIBLE_VERSION, f"{verb} does not exist in CNI {version}, but since {since}")


def _check_config(verb: str, config: dict[str, object]) -> None:
    name = config.get("name")
    if not isinstance(name, str) or not is_identifier(name) or len(name) > NAME_CHARS_MAX:
        raise CniError(
            INVALID_CONFIG,
            f"name {name!r}: a network's name starts with a letter or digit, goes on with those, '_', '.' and "
            f"'-', and has at most {NAME_CHARS_MAX} characters",
        )
    for key, value in config.items():
        if key not in _FIELDS and "/" not in key:  # with a slash it is somebody's own, as cni.dev/… is
            raise CniError(UNSUPPORTED_FIELD, f"field {key!r} with value {value!r} is not supported")
    if config.get("ipMasq"):
        raise CniError(UNSUPPORTED_FIELD, "field 'ipMasq' with value true is not supported: pods are routed")
    if config.get("ipam"):
        raise CniError(
            UNSUPPORTED_FIELD,
            f"field 'ipam' with value {config['ipam']!r} is not supported: the agent gives addresses from the "
            f"node's pod prefixes; remove the field",
        )
    mtu = config.get("mtu")
    if mtu is not None and (not isinstance(mtu, int) or isinstance(mtu, bool) or not _MTU_MIN <= mtu <= _MTU_MAX):
        raise CniError(INVALID_CONFIG, f"mtu {mtu!r} is not a number from {_MTU_MIN} to {_MTU_MAX}")
    _check_chain(verb, config)


def _check_chain(verb: str, config: dict[str, object]) -> None:
    previous = config.get("prevResult")
    if previous is not None and not isinstance(previous, dict):
        raise CniError(INVALID_CONFIG, "prevResult is not an object")
    if verb == "CHECK" and previous is None:
        raise CniError(INVALID_CONFIG, "prevResult is missing: CHECK compares with the result of ADD")
    if verb == "ADD" and previous is not None:
        raise CniError(
            INVALID_CONFIG,
            "prevResult is given: cplane-cni makes the interface itself and cannot follow another plugin that "
            "did; make it the first of the list",
        )
    if verb == "GC" and not any(key in config for key in VALID_ATTACHMENTS):
        # Without the list every attachment would be stale. That must be said, not left out.
        raise CniError(INVALID_CONFIG, f"{VALID_ATTACHMENTS[0]} is missing")


def _check_attachment(container: str, interface: str) -> None:
    if not is_identifier(container):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID {container!r}: it starts with a letter or digit and goes on with those, '_', '.' and '-'",
        )
    if (
        len(interface.encode()) > _INTERFACE_BYTES_MAX
        or interface in _INTERFACES_REFUSED
        or any(c in "/:%" or c.isspace() or not c.isprintable() for c in interface)
    ):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_IFNAME {interface!r}: an interface's name has 1 to {_INTERFACE_BYTES_MAX} bytes without '/', ':', "
            f"'%' and spaces, and is not {', '.join(map(repr, _INTERFACES_REFUSED))}",
        )
    if len(container.encode()) + len(interface.encode()) > ATTACHMENT_CHARS_MAX:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"CNI_CONTAINERID and CNI_IFNAME together are longer than {ATTACHMENT_CHARS_MAX} characters",
        )


def is_identifier(text: str) -> bool:
    """Whether it is what the specification allows for names of networks and ids of containers."""
    if not text or not text.isascii() or not text[0].isalnum():
        return False
    return all(c.isalnum() or c in "_.-" for c in text)

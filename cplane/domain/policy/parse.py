"""A document becomes a policy or a group of prefixes, or every reason why it cannot."""

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from cplane.domain.labels import K8S, Label, LabelSet
from cplane.domain.policy import cidrgroup, cnp, knp, peers
from cplane.domain.policy.document import (
    OBJECTS,
    FieldError,
    Fields,
    InvalidPolicy,
    Place,
    Reader,
    did_you_mean,
    required_text,
    shown,
)
from cplane.domain.policy.rule import CCNP, CIDR_GROUP, CNP, KNP, CidrGroup, Policy, PolicyRef

DEFAULT_NAMESPACE: Final = "default"
KEPT_TEXTS: Final = 1024  # whose policies are kept for who reads them next
KEPT_CHARS: Final = 16_384  # of such a text; a longer one is rare, and parsed each time
AUDIT_ANNOTATION: Final = "policy.cplane.io/audit"
"""`true`: what the policy would drop passes, with the verdict AUDIT."""

_API_VERSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    CNP: ("cilium.io/v2",),
    CCNP: ("cilium.io/v2",),
    KNP: ("networking.k8s.io/v1",),
    CIDR_GROUP: ("cilium.io/v2", "cilium.io/v2alpha1"),
}
KINDS: Final = tuple(_API_VERSIONS)
CLUSTER_WIDE: Final = frozenset({CCNP, CIDR_GROUP})
_NAME_ANNOTATIONS: Final = ("policy.cilium.io/name", "io.cilium.name")

_DOCUMENT_FIELDS: Final = Fields(
    frozenset({"apiVersion", "kind", "metadata", "spec", "specs", "status"}),
    misplaced={
        **dict.fromkeys(("name", "namespace", "labels", "annotations"), "put it under metadata"),
        **dict.fromkeys(
            ("endpointSelector", "nodeSelector", "podSelector", "policyTypes", "ingress", "egress"), "put it under spec"
        ),
        **dict.fromkeys(("ingressDeny", "egressDeny", "description", "enableDefaultDeny"), "put it under spec"),
    },
)
METADATA_FIELDS: Final = Fields(
    frozenset(
        {
            "name",
            "namespace",
            "annotations",
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generateName",
            "generation",
            "labels",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        }
    )
)
_NAMESPACE: Final = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def parse(document: Mapping[str, object], *, cluster: str) -> Policy | CidrGroup:
    """What the document is, in the cluster of that name.

    The same document is always read the same way, so what was accepted once is accepted again.
    Raises InvalidPolicy with every error. Source: rules of Cilium 1.19, `pkg/policy/api` and the CRDs' schema;
    NetworkPolicy as `pkg/k8s` translates it.
    """
    reader = Reader()
    root = reader.root(document)
    kind = document.get("kind") if isinstance(document, OBJECTS) else None
    if isinstance(kind, str) and _is_foreign(kind):
        raise InvalidPolicy((FieldError("kind", _unknown(kind)),))
    fields = root.fields(_DOCUMENT_FIELDS) or {}
    kind = _kind(root, fields)
    metadata = _metadata(root, fields)
    ref = _ref(metadata, kind)
    if kind == CIDR_GROUP:
        group = cidrgroup.read_group(root, fields, ref, _group_labels(metadata))
        return reader.result(lambda: group)
    labels = _policy_labels(ref, metadata)
    if kind == KNP:
        rules = knp.read_rules(root, fields, ref, labels, cluster)
    else:
        rules = cnp.read_rules(root, fields, ref, labels, cluster)
    audit = _audit(metadata)
    return reader.result(lambda: Policy(ref, tuple(rules), audit))


def parse_text(text: str, *, cluster: str) -> Policy | CidrGroup:
    """`parse` of the object that the JSON text is.

    Who decides about a text, who remembers what was decided, and whose tables follow from it, read it one after
    the other: it is parsed for the first of them, and they share one policy.
    """
    return _kept(text, cluster) if len(text) <= KEPT_CHARS else _parse_text(text, cluster)


def _parse_text(text: str, cluster: str) -> Policy | CidrGroup:
    document = json.loads(text)
    assert isinstance(document, dict), "the edge hands over objects"
    return parse(document, cluster=cluster)


_kept = lru_cache(maxsize=KEPT_TEXTS)(_parse_text)


def _is_foreign(kind: str) -> bool:
    """Whether it is the kind of somebody else's object, of which there is no more to say."""
    return bool(kind) and kind not in KINDS and not did_you_mean(kind, KINDS)


def _unknown(kind: str) -> str:
    return f"unknown kind {shown(kind)}{did_you_mean(kind, KINDS)}; kinds are {', '.join(KINDS)}"


def _kind(root: Place, fields: dict[str, Place]) -> str:
    kind = required_text(root, fields, "kind", f"write one of {', '.join(KINDS)}")
    if kind is not None and kind not in KINDS:
        fields["kind"].refuse(_unknown(kind))
    versions = _API_VERSIONS.get(kind or "", _API_VERSIONS[CNP])
    version = required_text(root, fields, "apiVersion", f"write {versions[0]}")
    if version is not None and version not in versions:
        fields["apiVersion"].refuse(f"{shown(version)} is not read here: write {versions[0]}")
    return kind or ""


def _metadata(root: Place, fields: dict[str, Place]) -> dict[str, Place]:
    if "metadata" not in fields:
        root.refuse("metadata is missing: a policy needs at least metadata.name")
        return {}
    found = fields["metadata"].fields(METADATA_FIELDS) or {}
    name = required_text(fields["metadata"], found, "name", "a policy needs a name")
    if name is not None and not peers.is_subdomain(name):
        found["name"].refuse(
            f"{shown(name)} is not a name: lower-case letters, digits, '-' and '.', at most {peers.SUBDOMAIN_MAX}, "
            f"with a letter or digit at both ends"
        )
    return found


def _ref(metadata: dict[str, Place], kind: str) -> PolicyRef:
    name = metadata["name"].value if "name" in metadata else ""
    return PolicyRef(kind, _namespace(metadata, kind), name if isinstance(name, str) else "")


def _namespace(fields: dict[str, Place], kind: str) -> str:
    text = fields["namespace"].text() if "namespace" in fields else ""
    if kind in CLUSTER_WIDE:
        if text:
            advice = f", or write a {CNP}" if kind == CCNP else ""
            fields["namespace"].refuse(f"a {kind} has no namespace: remove it{advice}")
        return ""
    if not text:
        return DEFAULT_NAMESPACE
    if len(text) > peers.NAME_MAX or not _NAMESPACE.fullmatch(text):
        fields["namespace"].refuse(
            f"{shown(text)} is not a namespace: lower-case letters, digits and '-', at most {peers.NAME_MAX}, "
            f"with a letter or digit at both ends"
        )
    return text


def _policy_labels(ref: PolicyRef, metadata: dict[str, Place]) -> LabelSet:
    prefix = "io.cilium.k8s.policy."
    name = ref.name
    if ref.kind == KNP:
        annotations = _texts(metadata, "annotations")
        name = next((annotations[key] for key in _NAME_ANNOTATIONS if annotations.get(key)), name)
    uid = metadata["uid"].value if "uid" in metadata else ""
    values = {
        "derived-from": ref.kind,
        "name": name,
        "namespace": ref.namespace,
        "uid": uid if isinstance(uid, str) else "",
    }
    return LabelSet(tuple(Label(prefix + key, K8S, value) for key, value in values.items() if value or key == "uid"))


def _group_labels(metadata: dict[str, Place]) -> LabelSet:
    """By these a group is selected, so one that cannot be read is no detail."""
    found = metadata["labels"].entries() if "labels" in metadata else ()
    return LabelSet(tuple(Label(key, K8S, text) for key, one in found if (text := one.text()) is not None))


def _audit(metadata: dict[str, Place]) -> bool:
    written = metadata["annotations"].value if "annotations" in metadata else None
    if not isinstance(written, Mapping) or AUDIT_ANNOTATION not in written:
        return False
    place = metadata["annotations"].child(AUDIT_ANNOTATION, written[AUDIT_ANNOTATION])
    text = place.text()
    if text is not None and text not in {"true", "false"}:
        place.refuse(f'{shown(text)} is neither "true" nor "false"')
    return text == "true"


def _texts(fields: dict[str, Place], name: str) -> dict[str, str]:
    """The entries of an object that are texts; that others are, too, is for Kubernetes to check."""
    value = fields[name].value if name in fields else None
    if not isinstance(value, Mapping):
        return {}
    return {key: text for key, text in value.items() if isinstance(key, str) and isinstance(text, str)}

"""Which labels make an identity."""

import pytest

from cplane.domain.labelfilter import identity_labels
from cplane.domain.labels import LabelSet


@pytest.mark.parametrize(
    ("label", "kept"),
    [
        ("k8s:app=web", True),
        ("k8s:io.kubernetes.pod.namespace=shop", True),
        ("k8s:io.kubernetes.pod.name=web-0", False),
        ("k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop", True),
        ("k8s:io.cilium.k8s.policy.cluster=c1", True),
        ("k8s:io.cilium.k8s.policy.serviceaccount=luke", True),
        ("k8s:app.kubernetes.io/name=web", True),
        ("k8s:kubernetes.io/hostname=n1", False),
        ("k8s:k8s.io/x=1", False),
        ("k8s:statefulset.kubernetes.io/pod-name=web-0", False),
        ("k8s:apps.kubernetes.io/pod-index=0", False),
        ("k8s:batch.kubernetes.io/job-completion-index=0", False),
        ("k8s:batch.kubernetes.io/controller-uid=u", False),
        ("k8s:batch.kubernetes.io/job-name=j", True),
        ("k8s:foo.beta.kubernetes.io/x=1", False),
        ("k8s:pod-template-hash=abc", False),
        ("k8s:pod-template-generation=1", False),
        ("k8s:controller-revision-hash=abc", False),
        ("k8s:controller-uid=u", False),
        ("k8s:annotation.x=1", False),
        ("k8s:etcd_node=1", False),
        ("k8s:topology.kubernetes.io/zone=a", False),
        ("container:app=web", True),
        ("reserved:host", True),
        ("reserved:io.kubernetes", True),
    ],
)
def test_a_label_makes_identity_unless_it_is_ignored(label, kept):
    found = identity_labels(LabelSet.parse(["k8s:always=here", label]))
    assert (LabelSet.parse([label]).labels[0] in found) is kept
    assert LabelSet.parse(["k8s:always=here"]).labels[0] in found


@pytest.mark.parametrize("labels", [[], ["k8s:pod-template-hash=abc"]])
def test_what_has_no_identity_labels_is_init(labels):
    assert identity_labels(LabelSet.parse(labels)).texts() == ("reserved:init=",)


def test_a_set_that_keeps_all_its_labels_is_itself():
    labels = LabelSet.parse(["k8s:app=web"])
    assert identity_labels(labels) is labels

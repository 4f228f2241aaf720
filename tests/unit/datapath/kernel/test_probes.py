"""What can be read without asking the kernel."""

from pathlib import Path

import pytest

from datapath.kernel.probes import cgroup2_mount


@pytest.mark.parametrize(
    ("mounts", "path"),
    [
        ("cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n", Path("/sys/fs/cgroup")),
        (
            (
                "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n"
                "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n"
            ),
            Path("/sys/fs/cgroup/unified"),
        ),
        ("none /a\\040b cgroup2 rw 0 0\n", Path("/a b")),
        ("proc /proc proc rw 0 0\n", None),
        ("", None),
    ],
)
def test_the_unified_hierarchy_is_found_wherever_it_is_mounted(mounts: str, path: Path | None) -> None:
    assert cgroup2_mount(mounts) == path

"""The folder of pins."""

from pathlib import Path

import pytest

from datapath.kernel.pin import Pins, PinsGone
from datapath.kernel.syscall import KernelRefused
from tests.support.exhausted import files_left


def test_a_folder_that_somebody_removed_is_told_as_such(tmp_path: Path):
    with pytest.raises(PinsGone, match=str(tmp_path / "links")):
        list(Pins(tmp_path).links())
    with pytest.raises(PinsGone):
        list(Pins(tmp_path).programs())


def test_a_folder_that_cannot_be_read_now_is_not_taken_for_gone(tmp_path: Path):
    (tmp_path / "links").mkdir()
    with files_left(), pytest.raises(KernelRefused):
        list(Pins(tmp_path).links())

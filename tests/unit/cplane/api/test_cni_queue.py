"""Deletions wait in order, whole or not at all, and not without limit."""

import threading

import pytest

from cplane.api.cni import queue


def numbered(number: int) -> dict[str, object]:
    return {"verb": "DEL", "number": number}


def test_what_was_pushed_first_comes_first(tmp_path):
    folder = str(tmp_path / "queue")
    for number in range(12):
        queue.push(folder, numbered(number))
    assert [request for _, request in queue.waiting(folder)] == [numbered(n) for n in range(12)]


def test_a_removed_file_is_not_offered_again_and_its_number_is_not_reused(tmp_path):
    folder = str(tmp_path)
    queue.push(folder, numbered(0))
    queue.push(folder, numbered(1))
    first, _ = next(queue.waiting(folder))
    queue.remove(folder, first)
    queue.remove(folder, first)
    queue.push(folder, numbered(2))
    assert [request for _, request in queue.waiting(folder)] == [numbered(1), numbered(2)]


def test_a_folder_that_is_not_there_is_empty(tmp_path):
    assert list(queue.waiting(str(tmp_path / "none"))) == []


def test_a_full_queue_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(queue, "ENTRIES_MAX", 3)
    for number in range(3):
        queue.push(str(tmp_path), numbered(number))
    with pytest.raises(queue.QueueFullError, match="start the agent"):
        queue.push(str(tmp_path), numbered(3))
    assert len(list(queue.waiting(str(tmp_path)))) == 3


def test_a_spoilt_file_is_offered_as_none_and_set_aside_once(tmp_path):
    folder = str(tmp_path)
    queue.push(folder, numbered(0))
    (tmp_path / "0000000000000002.json").write_bytes(b"\xff{")
    (tmp_path / "0000000000000003.json").write_bytes(b"[]")
    (tmp_path / "0000000000000004.json").write_bytes(b"[" * 100_000)
    found = list(queue.waiting(folder))
    assert [request for _, request in found] == [numbered(0), None, None, None]
    queue.set_aside(folder, found[1][0])
    queue.set_aside(folder, found[2][0])
    queue.set_aside(folder, found[3][0])
    assert [request for _, request in queue.waiting(folder)] == [numbered(0)]
    assert (tmp_path / "0000000000000002.bad").exists()


def test_a_draft_of_a_killed_plugin_is_not_a_request(tmp_path):
    (tmp_path / ".0000000000000001.json.tmp").write_text('{"verb": "D')
    queue.push(str(tmp_path), numbered(0))
    assert [request for _, request in queue.waiting(str(tmp_path))] == [numbered(0)]


def test_plugins_that_push_at_once_lose_nothing(tmp_path):
    threads = [threading.Thread(target=queue.push, args=(str(tmp_path), numbered(n))) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    numbers = [request["number"] for _, request in queue.waiting(str(tmp_path)) if request]
    assert sorted(numbers) == list(range(16))

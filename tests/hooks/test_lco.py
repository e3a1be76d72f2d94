"""The archive's API: lists, tokens, and answers that are none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest

from tololo.facility.errors import BadInputError, UnavailableError
from tololo.hooks.lco import URL, LcoArchiveHook

from .lco_archive import LOGIN, TOKEN, Fault, LcoArchive

MakeHook = Callable[..., LcoArchiveHook]
PROPOSAL = "LCO2024A-001"
START, END = datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 5, 9, tzinfo=UTC)
_numbers = count(1)


@pytest.fixture
def server() -> Iterator[LcoArchive]:
    server = LcoArchive()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def hook(server: LcoArchive, monkeypatch: pytest.MonkeyPatch) -> MakeHook:
    """Make hooks that lose patience soon."""

    def make(url: str | None = server.url, password: str | None = TOKEN, **fields: Any) -> LcoArchiveHook:
        name = f"lco_{next(_numbers)}"
        connection = {"conn_type": "lco", "host": url, "password": password, **fields}
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}", json.dumps(connection))
        return LcoArchiveHook(name, timeout=(2.0, 0.5), attempts=3, backoff=0.01, patience=0.1)

    return make


def listed(hook: LcoArchiveHook) -> list[int]:
    return [frame.id for frame in hook.frames(PROPOSAL, START, END)]


def test_all_pages_are_read(server: LcoArchive, hook: MakeHook) -> None:
    for number in range(1203):
        server.add(b"", observation_date=f"2024-05-0{2 + number // 300}T01:00:00Z")
    assert listed(hook()) == list(range(1000, 2203))
    assert len(server.seen) == 3
    server.page_size = 100  # a server may give less than it is asked for
    assert listed(hook()) == list(range(1000, 2203))


def test_only_reduced_exposures_of_the_proposal_and_window_are_asked_for(
    server: LcoArchive, hook: MakeHook
) -> None:
    server.add(b"")
    for changes in (
        {"reduction_level": 0},
        {"configuration_type": "BIAS"},
        {"proposal_id": "LCO2024A-002"},
        {"observation_date": "2024-04-30T23:59:59Z"},
        {"observation_date": "2024-05-09T00:00:01Z"},
    ):
        server.add(b"", **changes)
    assert listed(hook()) == [1000]


@pytest.mark.parametrize("old_names", [True, False])
def test_a_record_is_read(server: LcoArchive, hook: MakeHook, old_names: bool) -> None:
    server.old_names = old_names
    stored = server.add(b"content", target_name="2010 NY65", primary_optical_element="w")
    (frame,) = hook().frames(PROPOSAL, START, END)
    assert (frame.target, frame.instrument, frame.filter) == ("2010 NY65", "fa06", "w")
    assert (frame.reduction_level, frame.configuration, frame.proposal) == (91, "EXPOSE", PROPOSAL)
    assert frame.filename == stored.record["filename"]
    assert frame.md5 == "9a0364b9e99bb480dd25e1f0284c8555"
    assert hook().frame(1000).url.startswith(f"{server.url}/files/1000/")


def test_frames_that_come_meanwhile_are_listed_once(server: LcoArchive, hook: MakeHook) -> None:
    server.page_size = 2
    for _ in range(5):
        server.add(b"")
    frames = hook().frames(PROPOSAL, START, END)
    first = [next(frames).id]
    server.add(b"", observation_date="2024-05-02T00:00:00Z")  # before all others: pages move on by one
    assert first + [frame.id for frame in frames] == [1000, 1001, 1002, 1003, 1004]


def test_a_server_that_does_not_know_the_filter_gives_no_frames_of_others(
    server: LcoArchive, hook: MakeHook
) -> None:
    page = [server.described(server.add(b"", proposal_id=name)) for name in ("OTHER", PROPOSAL, "ANOTHER")]
    server.faults = [Fault("/frames/", "words", body=json.dumps({"results": page}).encode())]
    assert listed(hook()) == [1001]


def test_pages_that_go_round_end(server: LcoArchive, hook: MakeHook) -> None:
    page = {"results": [], "next": "http://archive.internal/frames/?offset=2"}
    server.faults = [Fault("/frames/", "words", times=9, body=json.dumps(page).encode())]
    with pytest.raises(BadInputError, match="go round"):
        listed(hook())


def test_login_and_password_are_exchanged_for_a_token(server: LcoArchive, hook: MakeHook) -> None:
    server.add(b"")
    theirs = hook(login=LOGIN[0], password=LOGIN[1])
    assert listed(theirs) == [1000]
    assert listed(theirs) == [1000]
    assert [path for path, _ in server.seen].count("/api-token-auth/") == 1


def test_a_bad_login_is_said(hook: MakeHook) -> None:
    with pytest.raises(
        BadInputError, match=r"no token to 'observer' with this password.*connection lco_"
    ) as caught:
        listed(hook(login="observer", password="wrong word"))
    assert "wrong word" not in str(caught.value)


def test_a_wrong_token_is_said(hook: MakeHook) -> None:
    with pytest.raises(BadInputError, match=r"401.*Invalid token.*correct address and token in connection"):
        listed(hook(password="wrong"))


def test_without_a_token_nothing_is_asked(server: LcoArchive, hook: MakeHook) -> None:
    with pytest.raises(BadInputError, match="There is no token for the archive"):
        listed(hook(password=None))
    assert server.seen == []


def test_no_connection() -> None:
    with pytest.raises(BadInputError, match=r"There is no such connection.*lco_nowhere"):
        LcoArchiveHook("lco_nowhere").get_conn()


def test_the_archive_is_las_cumbres_own_unless_said_otherwise(hook: MakeHook) -> None:
    assert hook(url=None).get_conn().url == URL


def test_an_archive_in_trouble_is_asked_again(server: LcoArchive, hook: MakeHook) -> None:
    server.add(b"")
    server.faults = [
        Fault("/frames/", "status", status=500),
        Fault("/frames/", "status", status=429, headers={"Retry-After": "60"}),
        Fault("/frames/", "hang", seconds=1.0),
    ]
    assert listed(hook()) == [1000]
    assert len(server.seen) == 4


def test_an_archive_that_stays_in_trouble_is_said(server: LcoArchive, hook: MakeHook) -> None:
    server.faults = [Fault("/frames/", "status", times=3, status=502)]
    with pytest.raises(UnavailableError, match=r"no answer in 3 attempts.*502.*Down for maintenance"):
        listed(hook())
    server.faults = [Fault("/frames/", "status", times=3, status=429)]
    with pytest.raises(UnavailableError, match="3 times in a row that it is asked too often"):
        listed(hook())


@pytest.mark.parametrize(
    "body", [b"<html>Welcome</html>", b"[]", b"{}", b'{"results": 1}', b'{"results": [{}]}']
)
def test_what_is_not_the_archive(server: LcoArchive, hook: MakeHook, body: bytes) -> None:
    server.faults = [Fault("/frames/", "words", body=body)]
    with pytest.raises(
        BadInputError, match=r"The archive (answers something else|describes a frame without)"
    ):
        listed(hook())


def test_the_connection_is_tested(hook: MakeHook) -> None:
    good, words = hook().test_connection()
    assert good
    assert words.endswith("user observer")
    bad, words = hook(password="wrong").test_connection()
    assert not bad
    assert "401" in words


def test_the_connection_names_proposals(hook: MakeHook) -> None:
    assert hook(extra={"proposals": "LCO2024A-001, KEY2023B-004"}).proposals == (
        "LCO2024A-001",
        "KEY2023B-004",
    )
    assert hook().proposals == ()

from __future__ import annotations

from pathlib import Path

import pytest

from tololo.facility.bad_exposures import WORDS, BadExposure, Exclusions, exclusions, read_exclusions
from tololo.facility.configuration import INCLUDE
from tololo.facility.errors import BadInputError

LIST = """\
object_words: [junk, Twilight]
exposures:
  - expnum: 840001
    reason: telescope moved
    who: A. Observer, 2019-03-10
  - expnum: 840002
    detectors: [31, 61]
    reason: light leak
    who: B. Observer
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "bad_exposures.yaml"
    path.write_text(text)
    return path


def test_what_is_shipped_is_valid_and_has_the_usual_words() -> None:
    shipped = read_exclusions(INCLUDE / "configs" / "bad_exposures.yaml")
    assert shipped.words == WORDS == ("junk", "focus", "pointing", "donut")
    assert shipped.exposures == ()


def test_a_list(tmp_path: Path) -> None:
    found = read_exclusions(written(tmp_path, LIST))
    assert found.words == ("junk", "Twilight")
    assert found.exposures == (
        BadExposure(840001, "telescope moved", "A. Observer, 2019-03-10"),
        BadExposure(840002, "light leak", "B. Observer", (31, 61)),
    )
    assert found.of_exposure(840001, "COSMOS") == (
        "on the list of bad exposures: telescope moved (A. Observer, 2019-03-10)"
    )
    assert found.of_exposure(840002, "COSMOS") == ""
    assert found.of_detectors(840001) == {}
    assert found.of_detectors(840002) == dict.fromkeys(
        (31, 61), "on the list of bad exposures: light leak (B. Observer)"
    )


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("JUNK", "junk"),
        ("Some junk frame", "junk"),
        ("twilights", "Twilight"),
        ("focus", ""),
        ("COSMOS", ""),
        ("", ""),
    ],
)
def test_words_are_found_anywhere_in_capitals_or_not(tmp_path: Path, target: str, word: str) -> None:
    reason = read_exclusions(written(tmp_path, LIST)).of_exposure(840009, target)
    assert reason == (f"OBJECT {target!r} has the word {word!r}" if word else "")


@pytest.mark.parametrize("text", ["", "exposures:\n", "# nothing yet\n"])
def test_an_empty_list_leaves_the_usual_words(tmp_path: Path, text: str) -> None:
    assert read_exclusions(written(tmp_path, text)) == Exclusions()


def test_no_words_at_all(tmp_path: Path) -> None:
    assert read_exclusions(written(tmp_path, "object_words: []\n")).of_exposure(1, "junk") == ""


@pytest.mark.parametrize(
    ("old", "new", "says", "line"),
    [
        ("    who: B. Observer\n", "", "'who' is a required property", 6),
        ("    reason: telescope moved\n", "", "'reason' is a required property", 3),
        ("reason: light leak", 'reason: " "', "does not match", 8),
        ("expnum: 840001", "expnum: first", "'first' is not of type 'integer'", 3),
        ("detectors: [31, 61]", "detectors: [31, 63]", "63 is greater than the maximum of 62", 7),
        ("detectors: [31, 61]", "detectors: []", "name CCD numbers, or leave the key out", 7),
        ("reason: light", "because: light", "'because' was unexpected", 6),
        ("exposures:", "exposure:", "'exposure' was unexpected", 1),
        ("[junk, Twilight]", "junk", "'junk' is not of type 'array'", 1),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(
    tmp_path: Path, old: str, new: str, says: str, line: int
) -> None:
    assert LIST.count(old) == 1
    path = written(tmp_path, LIST.replace(old, new))
    with pytest.raises(BadInputError) as caught:
        read_exclusions(path)
    assert says in str(caught.value)
    assert f"{path}, line {line}," in caught.value.where


def test_what_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, "exposures: [\n  oops")
    with pytest.raises(BadInputError, match="Not YAML") as caught:
        read_exclusions(path)
    assert f"{path}, line 2" in caught.value.where
    with pytest.raises(BadInputError, match="Wrong list"):
        read_exclusions(written(tmp_path, "- 840001\n"))
    with pytest.raises(BadInputError, match="cannot be read"):
        read_exclusions(tmp_path / "absent.yaml")


def test_the_list_beside_the_facilitys_configuration_is_meant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOLOLO_FACILITY", str(tmp_path / "facility.yaml"))
    exclusions.cache_clear()
    assert exclusions() == read_exclusions(INCLUDE / "configs" / "bad_exposures.yaml")
    written(tmp_path, LIST)
    exclusions.cache_clear()
    assert exclusions().words == ("junk", "Twilight")
    assert exclusions(str(INCLUDE / "configs" / "bad_exposures.yaml")).words == WORDS
    exclusions.cache_clear()

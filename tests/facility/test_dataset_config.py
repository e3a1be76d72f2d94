from __future__ import annotations

from pathlib import Path

import pytest

from tololo.facility.dataset_config import FILE, PhotometryConfig, TomConfig, read_dataset_config
from tololo.facility.errors import BadInputError

USUAL = """\
target:
  name: 'TEST'
  RA: '17:30:25.5'      # Sexigesimal string
  Dec: '-25:30:30.5'    # Sexigesimal string
photometry:
  aperture_arcsec: 2.0
tom:
  upload: True
  config_file: /path/to/config.yaml
  data_label: 'TEST'
"""


def written(folder: Path, text: str) -> Path:
    (folder / FILE).write_text(text)
    return folder


def test_the_file_that_users_have(tmp_path: Path) -> None:
    config = read_dataset_config(written(tmp_path, USUAL))
    assert config.target.name == "TEST"
    assert (config.target.ra, config.target.dec) == pytest.approx((262.60625, -25.508472))
    assert config.photometry == PhotometryConfig(2.0)
    assert config.tom == TomConfig(True, "/path/to/config.yaml", "TEST")


def test_angles_without_quotes_are_what_is_written(tmp_path: Path) -> None:
    text = USUAL.replace("'17:30:25.5'", "00:00:30").replace("'-25:30:30.5'", "-00:00:36")
    config = read_dataset_config(written(tmp_path, text))
    assert (config.target.ra, config.target.dec) == pytest.approx((0.125, -0.01))


def test_without_a_tom_nothing_is_published(tmp_path: Path) -> None:
    config = read_dataset_config(written(tmp_path, USUAL.partition("tom:")[0]))
    assert config.tom == TomConfig()


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "says"),
    [
        ("2.0", "-2", 6, "photometry.aperture_arcsec", "radius of the aperture"),
        ("2.0", ".nan", 6, "photometry.aperture_arcsec", "radius in arcsec"),
        ("2.0", "2.0\n  1: 2\n  radius: 3", 7, "photometry.1", "aperture_arcsec, reference_image"),
        ("2.0", "two", 6, "photometry.aperture_arcsec", "radius of the aperture"),
        ("aperture_arcsec", "aperture", 6, "photometry.aperture", "aperture_arcsec, reference_image"),
        ("name: 'TEST'", "name: ' '", 2, "target.name", "does not match"),
        ("17:30:25.5", "27:30:25.5", 3, "target.RA", "0 and 24 hours"),
        ("-25:30:30.5", "north", 4, "target.Dec", "no angle"),
        ("True", "maybe", 8, "tom.upload", "True or False"),
        ("  aperture_arcsec: 2.0\n", "  {\n", 8, "", "Not YAML"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(
    tmp_path: Path, old: str, new: str, line: int, key: str, says: str
) -> None:
    with pytest.raises(BadInputError) as caught:
        read_dataset_config(written(tmp_path, USUAL.replace(old, new)))
    assert f"{tmp_path / FILE}, line {line}" in caught.value.where
    assert key in caught.value.where
    assert says in str(caught.value)


def test_a_dataset_without_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"no configuration.*{FILE}"):
        read_dataset_config(tmp_path)

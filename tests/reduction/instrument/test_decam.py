from __future__ import annotations

from pathlib import Path

from lsst.daf.butler import Butler
from lsst.pipe.base import Instrument

from tololo.reduction.instrument import DarkEnergyCamera


def test_register_is_idempotent_and_packs_ids(tmp_path: Path) -> None:
    Butler.makeRepo(str(tmp_path / "repo"))
    with Butler.from_config(str(tmp_path / "repo"), writeable=True) as butler:
        for _ in range(2):
            DarkEnergyCamera().register(butler.registry)
        (record,) = butler.query_dimension_records("instrument")
        assert record.class_name == "tololo.reduction.instrument.DarkEnergyCamera"
        assert (record.detector_max, record.exposure_max, record.visit_max) == (100, 2**25, 2**25)
        assert len(butler.query_dimension_records("detector", instrument="DECam")) == 62
        assert {r.name for r in butler.query_dimension_records("band")} >= {
            "u",
            "g",
            "r",
            "i",
            "z",
            "y",
            "VR",
        }
        (s30,) = butler.query_dimension_records("detector", instrument="DECam", detector=2)
        assert (s30.full_name, s30.raft, s30.name_in_raft, s30.purpose) == ("S30", "S", "30", "SCIENCE")

        camera = Instrument.from_string("DECam", butler.registry)
        assert type(camera) is DarkEnergyCamera
        assert camera.makeDefaultRawIngestRunName() == "DECam/raw/all"

        data_id = butler.registry.expandDataId(instrument="DECam")
        packer = Instrument.make_default_dimension_packer(data_id, is_exposure=True)
        packed = packer.pack(data_id, exposure=1234567, detector=62)
        assert packed == 123456762
        assert packer.unpack(packed)["exposure"] == 1234567

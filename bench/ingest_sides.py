"""Two ways to ingest a folder of raws, each a command: ours, and the way obs_base's RawIngestTask does it.

``python bench/ingest_sides.py ours|peer REPOSITORY FOLDER`` prints as JSON what the work has cost without the
start of Python and its imports. The stock task is not on PyPI (it needs LSST's C++ code), so the peer is its
loop over the same packages: one process, each CCD's header read by astropy and translated by
astro_metadata_translator, and for each exposure its records, an expanded data ID for each CCD, and one
``Butler.ingest``. It defines no visits and tags nothing, which ours does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from astro_metadata_translator import ObservationInfo, fix_header
from astro_metadata_translator.translators import DecamTranslator
from astropy.io import fits
from lsst.daf.butler import Butler, DatasetIdGenEnum, DatasetRef, DatasetType, FileDataset, Timespan

from tololo.facility.collections import RAW_RUN
from tololo.hooks.butler import ButlerHook
from tololo.reduction.formats.archive_formatter import DIMENSIONS, STORAGE_CLASS
from tololo.reduction.formats.raw_formatter import DATASET_TYPE, RawFormatter
from tololo.reduction.formats.raw_search import find_raws
from tololo.reduction.instrument.filters import physical_filter_of

# What RawIngestTask asks of a header, and what the records of an exposure need.
PROPERTIES = {
    "altaz_begin", "boresight_rotation_angle", "boresight_rotation_coord", "can_see_sky", "dark_time",
    "datetime_begin", "datetime_end", "detector_num", "exposure_group", "exposure_id", "exposure_time",
    "group_counter_end", "group_counter_start", "has_simulated_content", "instrument", "object",
    "observation_counter", "observation_id", "observation_reason", "observation_type", "observing_day",
    "physical_filter", "science_program", "tracking_radec", "visit_id",
}  # fmt: skip


def ours(repository: str, folder: Path) -> int:
    """Ingest a folder, and return the number of datasets."""
    search = find_raws(folder)
    return ButlerHook(repository).ingest_raws(search.exposures, search.excluded).datasets


def peer(repository: str, folder: Path) -> int:
    """Ingest a folder file by file and CCD by CCD, and return the number of datasets."""
    count = 0
    with Butler.from_config(repository, writeable=True) as butler:
        raw = DatasetType(DATASET_TYPE, DIMENSIONS, STORAGE_CLASS, universe=butler.dimensions)
        butler.registry.registerDatasetType(raw)
        butler.collections.register(RAW_RUN)
        for path in sorted(folder.iterdir()):
            infos = _headers(path)
            record = _record(infos[0])
            day = record["day_obs"]
            insert = butler.registry.insertDimensionData
            whole = Timespan.from_day_obs(day, offset=43200)
            with butler.transaction():
                insert("day_obs", {"instrument": "DECam", "id": day, "timespan": whole}, skip_existing=True)
                insert("group", {"instrument": "DECam", "name": record["group"]}, skip_existing=True)
                butler.registry.syncDimensionData("exposure", record)
                refs = [_ref(butler, raw, info) for info in infos]
                butler.ingest(FileDataset(str(path), refs, formatter=RawFormatter), transfer="direct")
            count += len(refs)
    return count


def _ref(butler: Butler, raw: DatasetType, info: ObservationInfo) -> DatasetRef:
    data_id = butler.registry.expandDataId(
        instrument="DECam", exposure=info.exposure_id, detector=info.detector_num
    )
    return DatasetRef(raw, data_id, RAW_RUN, id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN)


def _headers(path: Path) -> list[ObservationInfo]:
    """Translate the header of each CCD of a file."""
    found = []
    with fits.open(path, disable_image_compression=True) as hdus:
        primary = dict(hdus[0].header)
        for hdu in hdus[1:]:
            header = primary | dict(hdu.header)
            if header["CCDNUM"] > 62:
                continue
            fix_header(header, translator_class=DecamTranslator)
            found.append(
                ObservationInfo(header, translator_class=DecamTranslator, quiet=True, subset=PROPERTIES)
            )
    return found


def _record(info: ObservationInfo) -> dict[str, Any]:
    """Return the record of an exposure."""
    pointing, horizon = info.tracking_radec, info.altaz_begin
    return {
        "instrument": "DECam",
        "id": info.exposure_id,
        "obs_id": info.observation_id,
        "physical_filter": physical_filter_of(info.physical_filter),
        "day_obs": info.observing_day,
        "group": info.exposure_group,
        "seq_num": info.exposure_id,
        "seq_start": info.exposure_id,
        "seq_end": info.exposure_id,
        "exposure_time": info.exposure_time.to_value("s"),
        "dark_time": info.dark_time.to_value("s"),
        "observation_type": info.observation_type,
        "observation_reason": info.observation_reason,
        "target_name": info.object,
        "science_program": info.science_program,
        "tracking_ra": pointing.icrs.ra.deg if pointing is not None else None,
        "tracking_dec": pointing.icrs.dec.deg if pointing is not None else None,
        "azimuth": horizon.az.deg if horizon is not None else None,
        "zenith_angle": horizon.zen.deg if horizon is not None else None,
        "has_simulated": info.has_simulated_content,
        "can_see_sky": info.can_see_sky,
        "timespan": Timespan(info.datetime_begin, info.datetime_end),
    }


def main() -> int:
    """Run one side."""
    side, repository, folder = sys.argv[1:]
    began, cpu = time.perf_counter(), time.process_time()
    datasets = {"ours": ours, "peer": peer}[side](repository, Path(folder))
    cost = {"cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - began}
    print(json.dumps({"datasets": datasets} | cost))
    return 0


if __name__ == "__main__":
    sys.exit(main())

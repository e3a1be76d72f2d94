"""The Instrument class that the Butler's registry names for DECam."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lsst.pipe.base import Instrument

from .detectors import INSTRUMENT, detectors
from .filters import FILTERS

if TYPE_CHECKING:
    from lsst.daf.butler import DataId, Formatter, FormatterV2
    from lsst.daf.butler.registry import Registry

CLASS_NAME = "tololo.reduction.instrument.DarkEnergyCamera"

# As lsst.obs.decam: 2**25 observations of 100 detectors, so packed ids agree and can be read in decimal.
OBSERVATION_MAX = 2**25
DETECTOR_MAX = 100

# One exposure is one visit (VisitSystem.ONE_TO_ONE of lsst.obs.base).
VISIT_SYSTEM = 0
VISIT_SYSTEM_NAME = "one-to-one"


class DarkEnergyCamera(Instrument):
    """DECam on the Blanco 4-m telescope: 62 science CCDs.

    Parameters
    ----------
    collection_prefix : `str`, optional
        First part of collection names; ``DECam`` unless given.
    """

    policyName = "decam"

    @classmethod
    def getName(cls) -> str:
        """Return the instrument's name in the Butler, ``DECam``."""
        return INSTRUMENT

    def register(self, registry: Registry, *, update: bool = False) -> None:
        """Write the records of instrument, detectors, filters and visit system, all or none.

        Parameters
        ----------
        registry : `lsst.daf.butler.Registry`
            Registry to write to. What is there already stays as it is.
        update : `bool`, optional
            Change records that differ, instead of raising.

        Raises
        ------
        lsst.daf.butler.registry.ConflictingDefinitionError
            If a record is there with other values and ``update`` is false.
        """
        with registry.transaction():
            registry.syncDimensionData(
                "instrument",
                {
                    "name": INSTRUMENT,
                    "detector_max": DETECTOR_MAX,
                    "visit_max": OBSERVATION_MAX,
                    "exposure_max": OBSERVATION_MAX,
                    "visit_system": VISIT_SYSTEM,
                    "class_name": CLASS_NAME,
                },
                update=update,
            )
            for element, records in self._records().items():
                for record in records:
                    registry.syncDimensionData(element, record | {"instrument": INSTRUMENT}, update=update)

    def getRawFormatter(self, dataId: DataId) -> type[Formatter | FormatterV2]:
        """Return the reader of raw files, `~tololo.reduction.formats.raw_formatter.RawFormatter`."""
        from tololo.reduction.formats.raw_formatter import RawFormatter

        return RawFormatter

    @staticmethod
    def _records() -> dict[str, list[dict[str, int | str]]]:
        return {
            "physical_filter": [{"name": f.physical_filter, "band": f.band} for f in FILTERS],
            "detector": [
                {
                    "id": ccd.id,
                    "full_name": ccd.name,
                    "name_in_raft": ccd.name[1:],
                    "raft": ccd.side,
                    "purpose": "SCIENCE",
                }
                for ccd in detectors().values()
            ],
            "visit_system": [{"id": VISIT_SYSTEM, "name": VISIT_SYSTEM_NAME}],
        }

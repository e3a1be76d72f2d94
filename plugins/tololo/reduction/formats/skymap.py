"""Sky maps: the division of the sky into tracts and patches, with the geometry of ``lsst.skymap``.

``lsst.skymap`` needs the compiled stack, so its two maps that a DECam facility uses are here in numpy. A map
keeps the class name and the configuration fields of its counterpart and has the same hash, so that a user of
the stack can rebuild it from the definition stored in the repository.
"""

from __future__ import annotations

import hashlib
import struct
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from lsst.sphgeom import Angle, Circle, LonLat, Region, UnitVector3d

from tololo.facility import collections
from tololo.facility.errors import BadInputError

from .tract import Float, Patch, Tract, hull, overlaps, unit_vectors

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

DATASET_TYPE = "skyMap"
_BATCH = 200  # tracts per transaction: a killed registration loses at most these


@dataclass(frozen=True)
class SkyMap(ABC):
    """A set of overlapping tracts.

    Attributes
    ----------
    pixelScale : `float`
        Arcseconds per pixel at the centre of a tract.
    tractOverlap : `float`
        How far a tract reaches beyond the sky it is responsible for, degrees.
    patchInnerDimensions : `tuple` [`int`, `int`]
        Inner size of a patch, pixels.
    patchBorder : `int`
        Border of a patch, pixels.
    """

    pixelScale: float = 0.263
    tractOverlap: float = 0.0
    patchInnerDimensions: tuple[int, int] = (4000, 4000)
    patchBorder: int = 100

    CLASS: ClassVar[str]

    def __post_init__(self) -> None:
        object.__setattr__(self, "patchInnerDimensions", tuple(self.patchInnerDimensions))
        good = (
            self.pixelScale > 0
            and self.tractOverlap >= 0
            and self.patchBorder >= 0
            and len(self.patchInnerDimensions) == 2
            and min(self.patchInnerDimensions) > 0
        )
        if not good:
            raise BadInputError(
                f"The sky map {self.definition()} has a scale or size that is not positive",
                "sky map",
                "give pixelScale and patchInnerDimensions above 0, tractOverlap and patchBorder from 0",
            )

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of tracts."""

    @property
    @abstractmethod
    def centres(self) -> tuple[Float, Float]:
        """Centres of all tracts: ra and dec, ICRS degrees."""

    @abstractmethod
    def _radius(self, index: int) -> float:
        """Return the radius of a tract, degrees."""

    @abstractmethod
    def _packed(self) -> bytes:
        """Return what the hash covers beyond the common fields."""

    def __getitem__(self, index: int) -> Tract:
        if not 0 <= index < len(self):
            raise IndexError(f"the sky map has tracts 0 to {len(self) - 1}, not {index}")
        ra, dec = self.centres
        return Tract(
            index,
            float(ra[index]),
            float(dec[index]),
            self._radius(index),
            self.tractOverlap,
            self.pixelScale,
            self.patchInnerDimensions,
            self.patchBorder,
        )

    def __iter__(self) -> Iterator[Tract]:
        return (self[index] for index in range(len(self)))

    @property
    def hash(self) -> bytes:
        """SHA1 of the definition, 20 bytes, equal to the one of ``lsst.skymap``."""
        x, y = self.patchInnerDimensions
        sha1 = hashlib.sha1(self.CLASS.encode(), usedforsecurity=False)
        sha1.update(
            struct.pack("<iiidd3sd", x, y, self.patchBorder, self.tractOverlap, self.pixelScale, b"TAN", 0.0)
        )
        sha1.update(self._packed())
        return sha1.digest()

    def definition(self) -> dict[str, Any]:
        """Return class name and configuration, the fields named as in ``lsst.skymap``."""
        config = {field.name: getattr(self, field.name) for field in fields(self)}
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
        return {"name": self.CLASS, "config": plain | {"projection": "TAN", "rotation": 0.0}}

    def find_tracts(self, region: Region) -> list[Tract]:
        """List the tracts that overlap a region of the sky."""
        circle = region.getBoundingCircle()
        centre = np.array([circle.getCenter().x(), circle.getCenter().y(), circle.getCenter().z()])
        reach = circle.getOpeningAngle().asRadians() + self._half_diagonal
        near = np.flatnonzero(self._vectors @ centre >= np.cos(min(reach, np.pi)))
        return [tract for tract in (self[int(index)] for index in near) if overlaps(tract.region, region)]

    def find_patches(self, region: Region | tuple[Any, Any]) -> list[Patch]:
        """List the patches whose outer box overlaps a region of the sky.

        Parameters
        ----------
        region : `lsst.sphgeom.Region` or `tuple`
            The region, or ``(ra, dec)`` of its corners in ICRS degrees.

        Returns
        -------
        patches : `list` [`Patch`]
            By tract and patch.
        """
        area = hull(*region) if isinstance(region, tuple) else region
        return [patch for tract in self.find_tracts(area) for patch in tract.find_patches(area)]

    def register(self, butler: Butler, name: str, footprint: Iterable[Region] | None = None) -> int:
        """Write the records of the map, its tracts and patches, and its definition as dataset ``skyMap``.

        Parameters
        ----------
        butler : `lsst.daf.butler.Butler`
            Writeable.
        name : `str`
            The map's name in the repository.
        footprint : iterable of `lsst.sphgeom.Region`, optional
            Write only tracts that overlap one of these; all tracts by default. Later calls can add to it.

        Returns
        -------
        added : `int`
            How many tracts were new. A call that was killed is completed by the next.

        Raises
        ------
        BadInputError
            If the repository has another map of that name, or this map under another name.
        """
        from lsst.daf.butler import DatasetType

        collections.check_part(name, "sky map name")
        self._refuse_conflict(butler, name)
        tracts = self if footprint is None else self._over(footprint)
        known = {record.id for record in butler.query_dimension_records("tract", skymap=name, explain=False)}
        new = [tract for tract in tracts if tract.id not in known]
        grids = [tract.grid for tract in (self[index] for index in self._distinct)]
        record = {
            "name": name,
            "hash": self.hash,
            "tract_max": len(self),
            "patch_nx_max": max(nx for nx, _ in grids),
            "patch_ny_max": max(ny for _, ny in grids),
        }
        butler.registry.syncDimensionData("skymap", record)
        for start in range(0, len(new), _BATCH):
            batch = new[start : start + _BATCH]
            with butler.transaction():
                butler.registry.insertDimensionData(
                    "tract", *({"skymap": name, "id": tract.id, "region": tract.region} for tract in batch)
                )
                butler.registry.insertDimensionData(
                    "patch", *(_patch_record(name, patch) for tract in batch for patch in tract.patches)
                )
        butler.collections.register(collections.SKYMAPS)
        dataset_type = DatasetType(DATASET_TYPE, ["skymap"], "StructuredDataDict", universe=butler.dimensions)
        butler.registry.registerDatasetType(dataset_type)
        if butler.find_dataset(dataset_type, skymap=name, collections=collections.SKYMAPS) is None:
            butler.put(self.definition(), dataset_type, skymap=name, run=collections.SKYMAPS)
        return len(new)

    @classmethod
    def load(cls, butler: Butler, name: str) -> SkyMap:
        """Read a map back from a repository."""
        return from_definition(butler.get(DATASET_TYPE, skymap=name, collections=collections.SKYMAPS))

    @property
    def _distinct(self) -> Iterable[int]:
        """Tracts that stand for all sizes in the map."""
        return range(len(self))

    @cached_property
    def _vectors(self) -> Float:
        return unit_vectors(*self.centres)

    @cached_property
    def _half_diagonal(self) -> float:
        """From the centre to the corner of the largest tract, radians, rounded up."""
        return max(
            self[index].region.getBoundingCircle().getOpeningAngle().asRadians() for index in self._distinct
        )

    def _over(self, footprint: Iterable[Region]) -> list[Tract]:
        found = {tract.id: tract for region in footprint for tract in self.find_tracts(region)}
        return [found[index] for index in sorted(found)]

    def _refuse_conflict(self, butler: Butler, name: str) -> None:
        for record in butler.query_dimension_records("skymap", explain=False):
            if record.name == name and record.hash != self.hash:
                what, remedy = (
                    f"The sky map {name!r} is there already with another definition",
                    "another name",
                )
            elif record.name != name and record.hash == self.hash:
                what, remedy = f"This sky map is there already as {record.name!r}", f"{record.name!r}"
            else:
                continue
            raise BadInputError(what, "repository", f"use {remedy}; a registered sky map cannot be changed")


@dataclass(frozen=True)
class RingsSkyMap(SkyMap):
    """The whole sky in rings of declination, each divided evenly in right ascension.

    Attributes
    ----------
    numRings : `int`
        Rings between the two polar caps.
    raStart : `float`
        Right ascension of the first tract of each ring, degrees.
    """

    numRings: int = 120
    raStart: float = 0.0

    CLASS: ClassVar[str] = "RingsSkyMap"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.numRings < 1 or not 0 <= self.raStart < 360:
            raise BadInputError(
                f"A rings sky map cannot have {self.numRings} rings from ra {self.raStart}",
                "sky map",
                "give numRings from 1 and raStart from 0 to 360 degrees",
            )

    def __len__(self) -> int:
        return sum(self._counts) + 2

    @cached_property
    def centres(self) -> tuple[Float, Float]:
        """Centres of all tracts, from the south pole north, each ring by right ascension."""
        ring = self._ring
        ra = [(np.arange(count) * 360 / count + self.raStart) % 360 for count in self._counts]
        dec = [np.full(count, ring * (number + 1) - 90) for number, count in enumerate(self._counts)]
        return np.concatenate([[0.0], *ra, [0.0]]), np.concatenate([[-90.0], *dec, [90.0]])

    @cached_property
    def _counts(self) -> list[int]:
        """Tracts in each ring, enough to cover its side nearest the equator."""
        size = np.radians(self._ring)
        starts = size * (np.arange(self.numRings) + 0.5) - np.pi / 2
        widest = np.minimum(np.abs(starts), np.abs(starts + size))
        return [int(2 * np.pi * np.cos(dec) / size) + 1 for dec in widest]

    @property
    def _ring(self) -> float:
        return 180 / (self.numRings + 1)

    @property
    def _distinct(self) -> Iterable[int]:
        return (0,)

    def _radius(self, index: int) -> float:
        return self._ring / 2

    def _packed(self) -> bytes:
        return struct.pack("<id", self.numRings, self.raStart)


@dataclass(frozen=True)
class DiscreteSkyMap(SkyMap):
    """Square tracts at chosen places.

    Attributes
    ----------
    raList, decList : `tuple` [`float`, ...]
        Centres, ICRS degrees.
    radiusList : `tuple` [`float`, ...]
        Half sides, degrees.
    """

    raList: tuple[float, ...] = ()
    decList: tuple[float, ...] = ()
    radiusList: tuple[float, ...] = ()

    CLASS: ClassVar[str] = "DiscreteSkyMap"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("raList", "decList", "radiusList"):
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))
        sizes = {len(self.raList), len(self.decList), len(self.radiusList)}
        in_range = all(-90 <= dec <= 90 for dec in self.decList) and all(0 < r < 45 for r in self.radiusList)
        if sizes in ({0}, set()) or len(sizes) > 1 or not in_range:
            raise BadInputError(
                f"A discrete sky map cannot have {len(self.raList)} ra, {len(self.decList)} dec and "
                f"{len(self.radiusList)} radii {self.radiusList}",
                "sky map",
                "give each tract an ra, a dec from -90 to 90 and a radius below 45 degrees",
            )

    def __len__(self) -> int:
        return len(self.raList)

    @cached_property
    def centres(self) -> tuple[Float, Float]:
        """Centres of all tracts, as given."""
        return np.array(self.raList), np.array(self.decList)

    def _radius(self, index: int) -> float:
        return self.radiusList[index]

    def _packed(self) -> bytes:
        form = f"<{len(self)}d"
        return b"".join(struct.pack(form, *row) for row in (self.raList, self.decList, self.radiusList))


def from_definition(definition: dict[str, Any]) -> SkyMap:
    """Make a sky map from its class name and configuration.

    Parameters
    ----------
    definition : `dict`
        ``{"name": "RingsSkyMap" or "DiscreteSkyMap" (also rings, discrete), "config": {field: value}}``.

    Raises
    ------
    BadInputError
        If the class, a field or a value is not one of ours.
    """
    classes: dict[str, type[SkyMap]] = {"rings": RingsSkyMap, "discrete": DiscreteSkyMap}
    classes |= {cls.CLASS: cls for cls in classes.values()}
    name, config = definition.get("name"), dict(definition.get("config") or {})
    cls = classes.get(str(name))
    if cls is None:
        raise BadInputError(f"{name!r} is not a kind of sky map", "sky map", "use rings or discrete")
    fixed = config.pop("projection", "TAN"), config.pop("rotation", 0.0)
    unknown = set(config) - {field.name for field in fields(cls)}
    if unknown or fixed != ("TAN", 0.0):
        raise BadInputError(
            f"The sky map has fields that cannot be honoured: {sorted(unknown) or fixed}",
            "sky map",
            f"use TAN without rotation, and {', '.join(field.name for field in fields(cls))}",
        )
    return cls(**config)


def circle(ra: float, dec: float, radius: float) -> Circle:
    """Return a circle on the sky, all in ICRS degrees, for a footprint."""
    return Circle(UnitVector3d(LonLat.fromDegrees(ra % 360, dec)), Angle.fromDegrees(radius))


def _patch_record(skymap: str, patch: Patch) -> dict[str, Any]:
    return {
        "skymap": skymap,
        "tract": patch.tract.id,
        "id": patch.id,
        "cell_x": patch.x,
        "cell_y": patch.y,
        "region": patch.region,
    }

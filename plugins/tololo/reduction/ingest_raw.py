"""Ingest of raw exposures: files into datasets, headers into dimension records, kinds into tags.

A file is one artifact with a dataset ``raw`` for each of its science CCDs. An exposure goes in as a whole or
not at all. Exposures of the sky get their visit at once, with the regions of the camera's nominal geometry.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import batched, chain
from pathlib import Path
from typing import TYPE_CHECKING

from lsst.daf.butler import DatasetIdGenEnum, DatasetRef, DatasetType, FileDataset

from tololo.facility import collections
from tololo.facility.errors import BadInputError

from .formats.archive_formatter import DIMENSIONS, STORAGE_CLASS
from .formats.raw_exposure import KINDS, RawExposure
from .formats.raw_formatter import DATASET_TYPE, RawFormatter
from .formats.raw_search import Excluded, two_claims
from .ingest import IngestReport, prepare
from .instrument.detectors import INSTRUMENT, detectors
from .raw_records import insert_records
from .raw_transfer import TRANSFERS, by_mode, moved
from .records import data_ids, records_of

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

EXPOSURES_AT_ONCE = 20
"""How many go in one transaction."""

_NAMED = 10  # exposures and detectors that a message names


@dataclass
class RawIngestReport(IngestReport):
    """What an ingest of raws did.

    Attributes
    ----------
    incomplete : `list` [`str`]
        Which exposures have not all 62 detectors, and what they lack.
    refused : `list` [`BadInputError`]
        Files that claim an exposure which the repository has from another, and files that have gone.
    untagged : `int`
        Datasets that a night had and that are excluded now; they stay in their RUN.
    moved : `list` [`pathlib.Path`]
        Files that the repository has now and that a move is to remove.
    """

    incomplete: list[str] = field(default_factory=list)
    refused: list[BadInputError] = field(default_factory=list)
    untagged: int = 0
    moved: list[Path] = field(default_factory=list)


def dataset_type(butler: Butler) -> DatasetType:
    """Return the dataset type of raws, registered where it was not."""
    raw = DatasetType(DATASET_TYPE, DIMENSIONS, STORAGE_CLASS, universe=butler.dimensions)
    butler.registry.registerDatasetType(raw)
    return raw


def ingest_raws(
    butler: Butler,
    exposures: Sequence[RawExposure],
    excluded: Iterable[Excluded] = (),
    run: str = collections.RAW_RUN,
    transfer: str = "direct",
) -> RawIngestReport:
    """Ingest raw exposures and define the visits of those of the sky.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable; the instrument has been registered.
    exposures : sequence of `~tololo.reduction.formats.raw_exposure.RawExposure`
        What `~tololo.reduction.formats.raw_search.find_raws` found.
    excluded : iterable of `~tololo.reduction.formats.raw_search.Excluded`, optional
        What it found and the facility does not want: taken out of the night's tags if it is in them.
    run : `str`, optional
        RUN of the datasets.
    transfer : `str`, optional
        ``direct`` (the files stay where they are and are referred to), ``symlink``, ``copy``, or ``move``:
        the caller removes the files that the report names, last of all.

    Returns
    -------
    report : `RawIngestReport`

    Raises
    ------
    BadInputError
        If the transfer mode is unknown or the repository lacks the instrument.

    Notes
    -----
    The raws of a night are tagged in ``{night}/bias/raw``, ``{night}/flat/raw`` and ``{night}/drp/raw``.
    Ingesting again adds nothing; a killed ingest is completed by the next.
    """
    unwanted = list(excluded)
    everything = [*exposures, *(item.exposure for item in unwanted)]
    report = RawIngestReport(nights=sorted({exposure.night for exposure in everything}))
    tags = [tag_of(kind, night) for night in report.nights for kind in KINDS.values()]
    prepare(butler, run, tags, transfer, TRANSFERS)
    raw = dataset_type(butler)
    there = _there(butler, run, {exposure.exposure for exposure in everything})
    before = set(there)
    accepted = list(_accepted(butler, exposures, there, report))
    report.incomplete = _incomplete(accepted)
    for batch in batched(accepted, EXPOSURES_AT_ONCE):
        _ingest(butler, batch, there, raw, run, transfer, report)
    known = [exposure for exposure in accepted if exposure.exposure in before]
    _tag_known(butler, known, unwanted, there, report)
    if transfer == "move":
        report.moved = moved(butler, accepted, there)
    return report


def _there(butler: Butler, run: str, expnums: set[int]) -> dict[int, dict[int, DatasetRef]]:
    """Ask once which datasets these exposures have, by exposure and detector."""
    there: dict[int, dict[int, DatasetRef]] = defaultdict(dict)
    if expnums:
        refs = butler.query_datasets(
            DATASET_TYPE,
            run,
            where="instrument = :camera AND exposure IN (:numbers)",
            bind={"camera": INSTRUMENT, "numbers": sorted(expnums)},
            limit=None,
            explain=False,
        )
        for ref in refs:
            there[int(ref.dataId["exposure"])][int(ref.dataId["detector"])] = ref
    return there


def _accepted(
    butler: Butler,
    exposures: Sequence[RawExposure],
    there: dict[int, dict[int, DatasetRef]],
    report: RawIngestReport,
) -> Iterator[RawExposure]:
    """Yield the exposures whose number the repository does not know as another's, and whose file is there."""
    records = {
        record.id: record
        for record in records_of(butler, "exposure", {exposure.exposure for exposure in exposures})
    }
    for exposure in exposures:
        record = records.get(exposure.exposure)
        if record and record.timespan and not exposure.began_at(record.timespan.begin.tai.mjd):
            known = there.get(exposure.exposure)
            other = str(butler.getURI(next(iter(known.values()))).ospath) if known else "the repository"
            report.refused.append(two_claims(exposure, other, record.obs_id))
        elif there.get(exposure.exposure, {}).keys() >= set(exposure.detectors) or exposure.path.is_file():
            yield exposure
        else:
            gone = "The file has gone since it was found"
            report.refused.append(BadInputError(gone, str(exposure.path), "bring it back, and run again"))


def _incomplete(exposures: Iterable[RawExposure]) -> list[str]:
    """Say which exposures lack which detectors, in one line for all that lack the same."""
    lines: list[str] = []
    groups: dict[tuple[int, ...], list[RawExposure]] = defaultdict(list)
    for exposure in exposures:
        groups[exposure.on_file].append(exposure)
    for on_file, group in groups.items():
        if missing := [f"{ccd.id} ({ccd.name})" for ccd in detectors().values() if ccd.id not in on_file]:
            which = ", ".join(str(exposure.exposure) for exposure in group[:_NAMED])
            lines.append(
                f"The files of exposures {which}{_more(group)} have {len(on_file)} of {len(detectors())} "
                f"detectors; missing: {', '.join(missing[:_NAMED])}{_more(missing)}"
            )
    return lines


def _more(items: Sequence[object]) -> str:
    return f" and {len(items) - _NAMED} more" if len(items) > _NAMED else ""


def _ingest(
    butler: Butler,
    exposures: Sequence[RawExposure],
    there: dict[int, dict[int, DatasetRef]],
    raw: DatasetType,
    run: str,
    transfer: str,
    report: RawIngestReport,
) -> None:
    """Ingest what is missing of some exposures, in one transaction."""
    missing: list[RawExposure] = []
    for exposure in exposures:
        if lacks := [ccd for ccd in exposure.detectors if ccd not in there.get(exposure.exposure, {})]:
            missing.append(replace(exposure, detectors=tuple(lacks)))
        else:
            report.already_there.append(exposure.exposure)
    if not missing:
        return
    new: dict[int, dict[int, DatasetRef]] = defaultdict(dict)
    with butler.transaction():
        insert_records(butler, missing)
        wanted = {exposure.exposure: exposure.detectors for exposure in missing}
        for number, detector, data_id in data_ids(butler, wanted, raw.dimensions):
            new[number][detector] = DatasetRef(
                raw, data_id, run, conform=False, id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN
            )
        for mode, group in by_mode(butler, missing, run, transfer).items():
            files = [
                FileDataset(
                    str(exposure.path.resolve()),
                    list(new[exposure.exposure].values()),
                    formatter=RawFormatter,
                )
                for exposure in group
            ]
            butler.ingest(*files, transfer=mode)
        for tag in {_tag(exposure) for exposure in missing if exposure.kind}:
            refs = [new[e.exposure].values() for e in missing if e.kind and _tag(e) == tag]
            butler.registry.associate(tag, chain.from_iterable(refs))
    for exposure in missing:
        report.ingested.append(exposure.exposure)
        report.datasets += len(exposure.detectors)
        there[exposure.exposure].update(new[exposure.exposure])


def _tag(exposure: RawExposure) -> str:
    """Name the tag that an exposure belongs to; it has a kind."""
    return tag_of(exposure.kind, exposure.night)


def tag_of(kind: str, night: int) -> str:
    """Name the TAGGED collection of the raws of a kind and a night."""
    return collections.raws(collections.chain(kind, night))


def _tag_known(
    butler: Butler,
    exposures: Iterable[RawExposure],
    excluded: Iterable[Excluded],
    there: dict[int, dict[int, DatasetRef]],
    report: RawIngestReport,
) -> None:
    """Let the tags of the nights hold what is wanted of what was there before, and nothing that is not."""
    wanted: dict[str, list[DatasetRef]] = defaultdict(list)
    unwanted: dict[str, list[DatasetRef]] = defaultdict(list)
    for exposure in exposures:
        if exposure.kind:
            known = there[exposure.exposure]
            wanted[_tag(exposure)] += [known[n] for n in exposure.detectors]
    for item in excluded:
        if item.exposure.kind:
            known = there.get(item.exposure.exposure, {})
            refs = [known[number] for number in item.detectors if number in known]
            unwanted[_tag(item.exposure)] += refs
    for tag in wanted.keys() | unwanted.keys():
        tagged = {ref.id for ref in butler.query_datasets(DATASET_TYPE, tag, limit=None, explain=False)}
        if lost := [ref for ref in wanted[tag] if ref.id not in tagged]:
            butler.registry.associate(tag, lost)
        if bad := [ref for ref in unwanted[tag] if ref.id in tagged]:
            butler.registry.disassociate(tag, bad)
            report.untagged += len(bad)

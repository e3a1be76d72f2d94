"""Calibrations from a folder into a repository."""

from __future__ import annotations

from itertools import batched
from pathlib import Path
from typing import TYPE_CHECKING

from tololo.hooks.artifacts import check_copies, known_copies, refuse_missing
from tololo.hooks.calibration_transfer import plan_certifications, write_chains
from tololo.hooks.calibrations import certify_pairs
from tololo.hooks.exports import check_sums, files_of, read_export
from tololo.hooks.transfer import BATCH, TransferReport, check_transfer, refuse_strangers

if TYPE_CHECKING:
    from lsst.daf.butler import Butler, DatasetRef, Timespan
    from lsst.daf.butler.transfers import YamlRepoImportBackend

    from tololo.hooks.artifacts import Artifacts


def import_calibrations(
    butler: Butler, folder: str | Path, *, transfer: str = "copy", dry_run: bool = False
) -> TransferReport:
    """Bring an export into a repository, as ``butler import`` does.

    Parameters
    ----------
    butler : `lsst.daf.butler.Butler`
        Writeable, unless it is a dry run.
    folder : `str` or `pathlib.Path`
        What `~tololo.hooks.exports.export_calibrations` or ``butler export-calibs`` wrote.
    transfer : `str`, optional
        ``copy``, ``hardlink``, ``symlink`` or ``direct`` (the files stay there and are referred to).
    dry_run : `bool`, optional
        Check everything; write nothing.

    Returns
    -------
    report : `~tololo.hooks.transfer.TransferReport`

    Raises
    ------
    BadInputError
        If the folder holds no export or a spoilt one, a range overlaps what is certified, or the repository
        lacks the instrument; nothing is written then.
    UnavailableError
        If a copy differs from its original; it is not kept, and nothing is certified then.

    Notes
    -----
    Unlike ``butler import``, it can be run again: what is there is left alone, and a chain loses no child.
    """
    check_transfer(transfer, "direct")
    root = Path(folder).absolute()
    index = read_export(butler, root)
    originals = files_of(root, index)
    check_sums(root)
    refuse_strangers(butler, originals)
    refuse_missing(originals, originals)
    known = known_copies(butler, originals)
    new = [ref for ref in originals if ref not in known]
    pairs = _pairs(index, originals)
    planned = plan_certifications(butler, pairs, index.chains)
    if not dry_run:
        _load(butler, index, originals, new, transfer)
        for name, wanted in pairs.items():
            planned[name] = len(wanted) - certify_pairs(butler, name, wanted)
    files = {file for ref in new for file in originals[ref]}
    return TransferReport(
        len(new),
        len(known),
        len(files),
        sum(file.size() for file in files),
        planned,
        write_chains(butler, index.chains, dry_run=dry_run),
    )


def _load(
    butler: Butler,
    index: YamlRepoImportBackend,
    originals: Artifacts,
    new: list[DatasetRef],
    transfer: str,
) -> None:
    """Ingest datasets with the records that they need, some at a time, and verify them."""
    from lsst.daf.butler import CollectionType, FileDataset  # type: ignore[attr-defined]

    for kind in index.datasetTypes:
        butler.registry.registerDatasetType(kind)
    for run in index.runs:
        butler.collections.register(run, doc=index.collectionDocs.get(run))
    for name, collection_type in index.collections.items():
        butler.collections.register(name, collection_type, doc=index.collectionDocs.get(name))
    for element in butler.dimensions.sorted(index.dimensions):
        butler.registry.insertDimensionData(element, *index.dimensions[element], skip_existing=True)
    files = {ref: file for group in index.datasets.values() for file in group for ref in file.refs}
    for batch in batched(new, BATCH):
        with butler.transaction():
            butler.ingest(
                *(FileDataset(originals[ref][0], [ref], formatter=files[ref].formatter) for ref in batch),
                transfer=transfer,
            )
            check_copies(butler, {ref: originals[ref] for ref in batch})
    for name, ids in index.tagAssociations.items():
        if index.collections.get(name) is CollectionType.TAGGED:
            butler.registry.associate(name, [ref for ref in originals if ref.id in set(ids)])


def _pairs(
    index: YamlRepoImportBackend, originals: Artifacts
) -> dict[str, list[tuple[DatasetRef, Timespan]]]:
    """Return the datasets of an export and their validity ranges, by collection."""
    refs = {ref.id: ref for ref in originals}
    return {
        name: sorted((refs[key], span) for span, ids in ranges.items() for key in ids)
        for name, ranges in index.calibAssociations.items()
    }

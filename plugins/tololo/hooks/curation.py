"""What a facility does to its repository by hand: register, ingest, tag, certify, copy, remove.

Each method opens the repository for one piece of work, and its counterpart of the same name does it. All can
be run again with the same result, and take up what a killed run left.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tololo.hooks import (
    calibration_transfer,
    calibrations,
    curated_calibrations,
    dataset_types,
    exports,
    files,
    imports,
    runs,
    tags,
    transfer,
    visits,
)
from tololo.hooks.butler import ButlerHook


class CurationHook(ButlerHook):
    """A Butler repository and what is done to it by hand.

    Everywhere, ``dry_run`` checks all that the work would check, returns what it would return, and writes
    nothing.
    """

    def register_dataset_type(
        self,
        name: str,
        dimensions: Sequence[str],
        storage_class: str,
        *,
        is_calibration: bool = False,
        dry_run: bool = False,
    ) -> bool:
        """Register a dataset type: `tololo.hooks.dataset_types.register_dataset_type`."""
        with self.session(writeable=not dry_run) as butler:
            return dataset_types.register_dataset_type(
                butler, name, dimensions, storage_class, is_calibration=is_calibration, dry_run=dry_run
            )

    def ingest_files(
        self,
        dataset_type: str,
        run: str,
        table: str | Path,
        *,
        common: Mapping[str, Any] | None = None,
        transfer: str = "direct",
        formatter: str | None = None,
        dry_run: bool = False,
    ) -> files.IngestFilesReport:
        """Ingest the files that a table lists: `tololo.hooks.files.ingest_files`."""
        with self.session(writeable=not dry_run) as butler:
            return files.ingest_files(
                butler,
                dataset_type,
                run,
                table,
                common=common,
                transfer=transfer,
                formatter=formatter,
                dry_run=dry_run,
            )

    def define_visits(self, where: str = "", *, dry_run: bool = False) -> visits.VisitsReport:
        """Define the visits of exposures: `tololo.hooks.visits.define_visits`."""
        with self.session(writeable=not dry_run) as butler:
            return visits.define_visits(butler, where, dry_run=dry_run)

    def associate(
        self,
        tag: str,
        types: Sequence[str],
        sources: Sequence[str],
        where: str = "",
        *,
        replace: bool = False,
        dry_run: bool = False,
    ) -> tags.TagReport:
        """Put datasets into a TAGGED collection: `tololo.hooks.tags.associate`."""
        with self.session(writeable=not dry_run) as butler:
            return tags.associate(butler, tag, types, sources, where, replace=replace, dry_run=dry_run)

    def disassociate(
        self, tag: str, types: Sequence[str], where: str = "", *, dry_run: bool = False
    ) -> tags.TagReport:
        """Take datasets out of a TAGGED collection: `tololo.hooks.tags.disassociate`."""
        with self.session(writeable=not dry_run) as butler:
            return tags.disassociate(butler, tag, types, where, dry_run=dry_run)

    def certify(
        self,
        collection: str,
        types: Sequence[str],
        sources: Sequence[str],
        validity: str,
        where: str = "",
        *,
        dry_run: bool = False,
    ) -> calibrations.CertifyReport:
        """Certify calibrations for a validity range: `tololo.hooks.calibrations.certify`."""
        with self.session(writeable=not dry_run) as butler:
            return calibrations.certify(butler, collection, types, sources, validity, where, dry_run=dry_run)

    def register_curated(
        self, folder: str | Path, *, dry_run: bool = False
    ) -> curated_calibrations.CuratedReport:
        """Register curated calibrations: `tololo.hooks.curated_calibrations.register_curated`."""
        with self.session(writeable=not dry_run) as butler:
            return curated_calibrations.register_curated(butler, folder, dry_run=dry_run)

    def decertify(
        self, collection: str, dataset_type: str, validity: str, where: str = "", *, dry_run: bool = False
    ) -> calibrations.DecertifyReport:
        """Take a validity range out: `tololo.hooks.calibrations.decertify`."""
        with self.session(writeable=not dry_run) as butler:
            return calibrations.decertify(butler, collection, dataset_type, validity, where, dry_run=dry_run)

    def transfer_datasets(
        self,
        source: ButlerHook,
        types: Sequence[str],
        names: Sequence[str],
        where: str = "",
        *,
        how: str = "copy",
        dry_run: bool = False,
    ) -> transfer.TransferReport:
        """Copy datasets from another repository into this one: `tololo.hooks.transfer.transfer_datasets`."""
        with source.session() as origin, self.session(writeable=not dry_run) as butler:
            return transfer.transfer_datasets(
                origin, butler, types, names, where, transfer=how, dry_run=dry_run
            )

    def transfer_calibrations(
        self,
        source: ButlerHook,
        names: Sequence[str],
        types: Sequence[str] = (),
        *,
        how: str = "copy",
        dry_run: bool = False,
    ) -> transfer.TransferReport:
        """Copy calibrations: `tololo.hooks.calibration_transfer.transfer_calibrations`."""
        with source.session() as origin, self.session(writeable=not dry_run) as butler:
            return calibration_transfer.transfer_calibrations(
                origin, butler, names, types, transfer=how, dry_run=dry_run
            )

    def export_calibrations(
        self,
        folder: str | Path,
        names: Sequence[str],
        types: Sequence[str] = (),
        *,
        how: str = "copy",
        dry_run: bool = False,
    ) -> exports.ExportReport:
        """Write calibrations into a folder: `tololo.hooks.exports.export_calibrations`."""
        with self.session() as butler:
            return exports.export_calibrations(butler, folder, names, types, transfer=how, dry_run=dry_run)

    def import_calibrations(
        self, folder: str | Path, *, how: str = "copy", dry_run: bool = False
    ) -> transfer.TransferReport:
        """Bring an export into this repository: `tololo.hooks.imports.import_calibrations`."""
        with self.session(writeable=not dry_run) as butler:
            return imports.import_calibrations(butler, folder, transfer=how, dry_run=dry_run)

    def prune(
        self,
        names: Iterable[str],
        *,
        chains: Iterable[str] = (),
        unlink: bool = False,
        dry_run: bool = False,
    ) -> runs.PruneReport:
        """Remove RUNs: `tololo.hooks.runs.prune`."""
        with self.session(writeable=not dry_run) as butler:
            return runs.prune(butler, names, chains=chains, unlink=unlink, dry_run=dry_run)

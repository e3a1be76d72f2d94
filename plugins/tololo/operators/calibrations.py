"""Operators on calibrations: when they are valid, and how they get from one repository to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tololo.operators.butler import ButlerOperator, names

if TYPE_CHECKING:
    from tololo.hooks.calibrations import CertifyReport, DecertifyReport
    from tololo.hooks.curation import CurationHook
    from tololo.hooks.exports import ExportReport
    from tololo.hooks.transfer import TransferReport


class CertifyOperator(ButlerOperator):
    """Certify calibrations for a validity range.

    A range over what is certified already is refused; the very same range again changes nothing. All that
    lists names takes one string with commas too.

    :param collection: the CALIBRATION collection (templated); it is made if need be.
    :param dataset_types: which calibrations (templated).
    :param sources: collections to search, in order (templated).
    :param validity: ``20190401..20190415`` (both nights are in it), ``20190401..``, or moments in TAI
        ``2019-04-01T12:00:00..2019-04-16T12:00:00``, the second not in it (templated).
    :param where: data query in the Butler's language (templated).
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "collection",
        "dataset_types",
        "sources",
        "validity",
        "where",
    )

    def __init__(
        self,
        *,
        collection: str,
        dataset_types: str | Sequence[str],
        sources: str | Sequence[str],
        validity: str,
        where: str = "",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.collection = collection
        self.dataset_types = dataset_types
        self.sources = sources
        self.validity = validity
        self.where = where

    def curate(self, hook: CurationHook, *, dry_run: bool) -> CertifyReport:
        """Certify."""
        return hook.certify(
            self.collection,
            names(self.dataset_types),
            names(self.sources),
            self.validity,
            self.where,
            dry_run=dry_run,
        )


class DecertifyOperator(ButlerOperator):
    """Take a validity range out of a CALIBRATION collection; what lies before and after it stays certified.

    :param collection: the CALIBRATION collection (templated).
    :param dataset_type: which calibration (templated).
    :param validity: as for `CertifyOperator` (templated).
    :param where: data query in the Butler's language (templated).
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "collection",
        "dataset_type",
        "validity",
        "where",
    )

    def __init__(
        self, *, collection: str, dataset_type: str, validity: str, where: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.collection = collection
        self.dataset_type = dataset_type
        self.validity = validity
        self.where = where

    def curate(self, hook: CurationHook, *, dry_run: bool) -> DecertifyReport:
        """Decertify."""
        return hook.decertify(self.collection, self.dataset_type, self.validity, self.where, dry_run=dry_run)


class TransferCalibrationsOperator(ButlerOperator):
    """Copy calibrations with their validity ranges from another repository, and the chains that lead to them.

    Every copy is compared with its original before it is certified.

    :param source_conn_id: connection of the repository to copy from (templated).
    :param collections: CALIBRATION collections, or chains of them (templated).
    :param dataset_types: which calibrations; all unless given (templated).
    :param transfer: ``copy``, ``hardlink`` or ``symlink``.
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "source_conn_id",
        "collections",
        "dataset_types",
    )

    def __init__(
        self,
        *,
        source_conn_id: str,
        collections: str | Sequence[str],
        dataset_types: str | Sequence[str] = (),
        transfer: str = "copy",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_conn_id = source_conn_id
        self.collections = collections
        self.dataset_types = dataset_types
        self.transfer = transfer

    def curate(self, hook: CurationHook, *, dry_run: bool) -> TransferReport:
        """Copy, verify, certify."""
        source = type(hook).from_connection(self.source_conn_id)
        return hook.transfer_calibrations(
            source, names(self.collections), names(self.dataset_types), how=self.transfer, dry_run=dry_run
        )


class ExportCalibrationsOperator(ButlerOperator):
    """Write calibrations with their validity ranges into a folder, with checksums.

    :param folder: a new folder, or one that holds this export already (templated).
    :param collections: CALIBRATION collections, or chains of them (templated).
    :param dataset_types: which calibrations; all unless given (templated).
    :param transfer: ``copy``, ``hardlink`` or ``symlink``.
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "folder",
        "collections",
        "dataset_types",
    )

    def __init__(
        self,
        *,
        folder: str,
        collections: str | Sequence[str],
        dataset_types: str | Sequence[str] = (),
        transfer: str = "copy",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.folder = folder
        self.collections = collections
        self.dataset_types = dataset_types
        self.transfer = transfer

    def curate(self, hook: CurationHook, *, dry_run: bool) -> ExportReport:
        """Export."""
        return hook.export_calibrations(
            self.folder,
            names(self.collections),
            names(self.dataset_types),
            how=self.transfer,
            dry_run=dry_run,
        )


class ImportCalibrationsOperator(ButlerOperator):
    """Bring calibrations with their validity ranges from a folder into the repository.

    :param folder: what `ExportCalibrationsOperator` or ``butler export-calibs`` wrote (templated).
    :param transfer: ``copy``, ``hardlink``, ``symlink`` or ``direct``.
    """

    template_fields: Sequence[str] = (*ButlerOperator.template_fields, "folder")

    def __init__(self, *, folder: str, transfer: str = "copy", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.folder = folder
        self.transfer = transfer

    def curate(self, hook: CurationHook, *, dry_run: bool) -> TransferReport:
        """Import."""
        return hook.import_calibrations(self.folder, how=self.transfer, dry_run=dry_run)

"""Operators that bring datasets into a repository: files, visits of exposures, copies from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tololo.operators.butler import ButlerOperator, names

if TYPE_CHECKING:
    from tololo.hooks.curation import CurationHook
    from tololo.hooks.files import IngestFilesReport
    from tololo.hooks.transfer import TransferReport
    from tololo.hooks.visits import VisitsReport


class IngestFilesOperator(ButlerOperator):
    """Ingest the files that a table lists. All rows are checked before anything is ingested.

    InstCal exposures have an operator of their own, `~tololo.operators.ingest.IngestInstcalOperator`.

    :param dataset_type: what the files are (templated); it has been registered.
    :param run: RUN that they go into (templated); it is made if need be.
    :param table: file that astropy reads (ECSV, CSV ...); its first column is the file, relative to the
        table, the others are the dimensions of the data ID (templated).
    :param data_id: dimensions that are the same for all rows (templated).
    :param transfer: ``direct``, ``symlink``, ``hardlink`` or ``copy``.
    :param formatter: Python class that reads the files, unless the dataset type's own does.
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "dataset_type",
        "run",
        "table",
        "data_id",
    )

    def __init__(
        self,
        *,
        dataset_type: str,
        run: str,
        table: str,
        data_id: Mapping[str, Any] | None = None,
        transfer: str = "direct",
        formatter: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.dataset_type = dataset_type
        self.run = run
        self.table = table
        self.data_id = data_id
        self.transfer = transfer
        self.formatter = formatter

    def curate(self, hook: CurationHook, *, dry_run: bool) -> IngestFilesReport:
        """Ingest."""
        return hook.ingest_files(
            self.dataset_type,
            self.run,
            self.table,
            common=self.data_id,
            transfer=self.transfer,
            formatter=self.formatter,
            dry_run=dry_run,
        )


class DefineVisitsOperator(ButlerOperator):
    """Define the visits of exposures on the sky that have none; ingest of InstCal defines its own.

    :param where: which exposures, in the Butler's language (templated); all unless given.
    """

    template_fields: Sequence[str] = (*ButlerOperator.template_fields, "where")

    def __init__(self, *, where: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.where = where

    def curate(self, hook: CurationHook, *, dry_run: bool) -> VisitsReport:
        """Define."""
        return hook.define_visits(self.where, dry_run=dry_run)


class TransferDatasetsOperator(ButlerOperator):
    """Copy datasets from another repository into RUNs of the same names, and verify every copy.

    :param source_conn_id: connection of the repository to copy from (templated).
    :param dataset_types: which types (templated).
    :param collections: collections to search there, in order (templated).
    :param where: data query in the Butler's language (templated).
    :param transfer: ``copy``, ``hardlink`` or ``symlink``.
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "source_conn_id",
        "dataset_types",
        "collections",
        "where",
    )

    def __init__(
        self,
        *,
        source_conn_id: str,
        dataset_types: str | Sequence[str],
        collections: str | Sequence[str],
        where: str = "",
        transfer: str = "copy",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.source_conn_id = source_conn_id
        self.dataset_types = dataset_types
        self.collections = collections
        self.where = where
        self.transfer = transfer

    def curate(self, hook: CurationHook, *, dry_run: bool) -> TransferReport:
        """Copy and verify."""
        source = type(hook).from_connection(self.source_conn_id)
        return hook.transfer_datasets(
            source,
            names(self.dataset_types),
            names(self.collections),
            self.where,
            how=self.transfer,
            dry_run=dry_run,
        )

"""Operators on calibrations: when they are valid, and how they get from one repository to another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tololo.facility.calibrations import checked_limits
from tololo.facility.errors import BadInputError
from tololo.operators.butler import ButlerOperator, names
from tololo.params import NIGHT, data_query

if TYPE_CHECKING:
    from airflow.sdk import Context

    from tololo.hooks.calibrations import CertifyReport, DecertifyReport
    from tololo.hooks.curation import CurationHook
    from tololo.hooks.exports import ExportReport
    from tololo.hooks.night_calibrations import NightCalibrations
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


class CertifyNightOperator(ButlerOperator):
    """Certify what a night's own runs made of one kind, if it is good enough; borrow what the night lacks.

    All is certified for that night alone, in ``{night}/calib/{kind}``; what it replaces goes in the same
    moment. What raws need and no night within ``max_age`` days has fails the task, with one message that
    names it; what there is, is certified nevertheless. The XCom says which night's calibrations are used, and
    why.

    :param kind: ``bias`` or ``flat`` (templated).
    :param night: YYYYMMDD (templated).
    :param max_age: days that a borrowed calibration may be away (templated); 0 never borrows.
    :param raws: collections of the raws that need them, with commas if several (templated); by default the
        night's science raws, and for a bias its flats too.
    :param where: data query on these raws (templated), joined with the params ``detectors`` and ``where``.
    :param threshold: fraction of what these raws need that has to be there (templated).
    :param limits: what is good enough, where it differs from `tololo.facility.calibrations.LIMITS`.
    """

    template_fields: Sequence[str] = (
        *ButlerOperator.template_fields,
        "kind",
        "night",
        "max_age",
        "raws",
        "where",
        "threshold",
    )

    def __init__(
        self,
        *,
        kind: str,
        night: str = NIGHT,
        max_age: int | str = "{{ params.max_calib_age }}",
        raws: str | Sequence[str] = (),
        where: str = "",
        threshold: float | str = 1.0,
        limits: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kind = kind
        self.night = night
        self.max_age = max_age
        self.raws = raws
        self.where = where
        self.threshold = threshold
        self.limits = limits

    def work(self, context: Context) -> Any:
        """Work on what the run is about."""
        self.where = data_query(context["params"], self.where)
        return super().work(context)

    def curate(self, hook: CurationHook, *, dry_run: bool) -> NightCalibrations:
        """Judge, choose, certify."""
        from tololo.hooks.night_calibrations import certify_night

        try:
            max_age, threshold = int(self.max_age), float(self.threshold)
        except ValueError as error:
            raise BadInputError(
                f"max_age {self.max_age!r} or threshold {self.threshold!r} is no number",
                "certification of a night",
                "give a whole number of days, and a fraction",
            ) from error
        limits = checked_limits(self.limits)
        with hook.session(writeable=not dry_run) as butler:
            return certify_night(
                butler,
                self.night,
                self.kind,
                raws=names(self.raws),
                where=self.where,
                limits=limits,
                max_age=max_age,
                threshold=threshold,
                dry_run=dry_run,
            )


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

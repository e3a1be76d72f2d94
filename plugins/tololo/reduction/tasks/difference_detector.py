"""Subtract the template from one detector and measure what changed."""

from __future__ import annotations

from typing import Any

import lsst.pex.config as pex_config
import lsst.pipe.base as pipe_base
from astropy.table import Table
from lsst.images import VisitImage
from lsst.images.cells import CellCoadd
from lsst.pipe.base import connectionTypes as ct

from tololo.facility.difference_limits import LIMITS, DifferenceLimits
from tololo.facility.errors import BadInputError, NothingToDoError
from tololo.reduction.difference import METHODS, DifferenceSettings, difference
from tololo.reduction.formats.images import VisitContext, detector_image, difference_image
from tololo.reduction.formats.obs_info import night_of
from tololo.reduction.formats.skymap import from_definition
from tololo.reduction.formats.tract import Patch
from tololo.reduction.reliability import ReliabilityModel, read_model
from tololo.reduction.template import bring_template


class DifferenceDetectorConnections(
    pipe_base.PipelineTaskConnections, dimensions=("instrument", "visit", "detector", "skymap")
):
    """A visit image and the templates that overlap it in, the difference and its sources out."""

    science = ct.Input(
        doc="Calibrated image.",
        name="visit_image",
        storageClass="VisitImage",
        dimensions=("instrument", "visit", "detector"),
    )
    stars = ct.Input(
        doc="Sources of the calibrated image.",
        name="single_visit_star",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
    )
    templates = ct.PrerequisiteInput(
        doc="Templates that overlap the detector.",
        name="template_coadd",
        storageClass="CellCoadd",
        dimensions=("skymap", "tract", "patch", "band"),
        multiple=True,
        deferLoad=True,
        minimum=0,
    )
    sky_map = ct.PrerequisiteInput(
        doc="Definition of the sky map.",
        name="skyMap",
        storageClass="StructuredDataDict",
        dimensions=("skymap",),
    )
    template_detector = ct.Output(
        doc="The template on the pixels of the detector.",
        name="template_detector",
        storageClass="MaskedImageV2",
        dimensions=("instrument", "visit", "detector"),
    )
    difference = ct.Output(
        doc="Visit image less the matched template, nJy.",
        name="difference_image",
        storageClass="DifferenceImage",
        dimensions=("instrument", "visit", "detector"),
    )
    sources = ct.Output(
        doc="All detections on the difference, with flags and reliability.",
        name="dia_source_unfiltered",
        storageClass="ArrowAstropy",
        dimensions=("instrument", "visit", "detector"),
    )


class LimitsConfig(pex_config.Config):  # type: ignore[misc]
    """What a detection must keep to; the fields are those of `tololo.facility.difference_limits.LIMITS`."""


for _name, _limit in LIMITS.items():
    setattr(
        LimitsConfig,
        _name,
        pex_config.RangeField[float](
            doc=f"{_limit.meaning.capitalize()}; else the rejection is {_limit.reason!r}.",
            default=_limit.default,
            min=_limit.least,
            max=_limit.most,
            inclusiveMax=True,
        ),
    )


class DifferenceDetectorConfig(
    pipe_base.PipelineTaskConfig, pipelineConnections=DifferenceDetectorConnections
):
    """What counts as a detection, and what a template must be."""

    threshold = pex_config.RangeField[float](
        doc="Detection limit on the score, sigma.", default=5.0, min=0.0, inclusiveMin=False
    )
    method = pex_config.ChoiceField[str](
        doc="How the template is subtracted.",
        allowed={
            "alard_lupton": "Match the PSFs, subtract, decorrelate (Alard & Lupton 1998).",
            "zogy": "Proper subtraction (Zackay, Ofek & Gal-Yam 2016).",
        },
        default=METHODS[0],
    )
    limits = pex_config.ConfigField[LimitsConfig](doc="What a detection must keep to.", dtype=LimitsConfig)
    reliability = pex_config.Field[str](
        doc="File of the reliability model; the shipped one if empty.", default=""
    )
    minimum_coverage = pex_config.RangeField[float](
        doc="Fraction of the detector that the template must cover.",
        default=0.05,
        min=0.0,
        max=1.0,
        inclusiveMax=True,
    )
    allow_own_night = pex_config.Field[bool](
        doc="Subtract a template that holds visits of the same night.", default=False
    )


class DifferenceDetectorTask(pipe_base.PipelineTask):
    """Template, PSF matching, subtraction, detection, measurement; see `tololo.reduction.difference`.

    A detector without template, or whose template holds its own night, has no work; the reason is in the log
    and in the provenance.
    """

    ConfigClass = DifferenceDetectorConfig
    _DefaultName = "differenceDetector"

    def runQuantum(self, butlerQC: Any, inputRefs: Any, outputRefs: Any) -> None:
        """Difference one detector."""
        science = butlerQC.get(inputRefs.science)
        sky_map = from_definition(butlerQC.get(inputRefs.sky_map))
        handles = sorted(
            butlerQC.get(inputRefs.templates),
            key=lambda handle: (handle.dataId["tract"], handle.dataId["patch"]),
        )
        coadds = [
            (handle.get(), sky_map[handle.dataId["tract"]].patch(handle.dataId["patch"]))
            for handle in handles
        ]
        data_id = outputRefs.difference.dataId
        where = f"visit {data_id['visit']}, detector {data_id['detector']}"
        results = self.subtract(science, butlerQC.get(inputRefs.stars), coadds, where)
        butlerQC.put(results["template"], outputRefs.template_detector)
        butlerQC.put(results["difference"], outputRefs.difference)
        butlerQC.put(results["sources"], outputRefs.sources)

    def subtract(
        self, science: VisitImage, stars: Table, coadds: list[tuple[CellCoadd, Patch]], where: str
    ) -> dict[str, Any]:
        """Return template, difference and sources of one detector.

        Raises
        ------
        lsst.pipe.base.NoWorkFound
            There is no template, or none that may be used.
        """
        usable = self._without_own_night(coadds, night_of(science.obs_info), where)
        template = bring_template(science, usable)
        if template is None or template.coverage < self.config.minimum_coverage:
            share = 0.0 if template is None else template.coverage
            own = len(coadds) - len(usable)
            refused = f"; {own} more hold visits of this very night" if own else ""
            raise pipe_base.NoWorkFound(
                f"{where}: the template covers {share:.0%} of the detector "
                f"({len(usable)} patches overlap it{refused})"
            )
        settings = DifferenceSettings(
            self.config.threshold,
            self.config.method,
            DifferenceLimits(**self.config.limits.toDict()),
            self._model(),
        )
        try:
            result = difference(science, stars, template, settings)
        except NothingToDoError as error:
            raise pipe_base.NoWorkFound(f"{where}: {error}") from error
        self.log.info("%s: %s", where, result.description)
        context = VisitContext.from_visit_image(science)
        metadata = {
            "TEMPLATE VISITS": ",".join(str(visit) for visit in template.visits),
            "TEMPLATE COVERAGE": template.coverage,
            **result.metadata,
        }
        return {
            "template": detector_image(template.planes, context, {"FWHM": template.fwhm}),
            "difference": difference_image(
                result.planes, result.psf, context, science.summary_stats, metadata
            ),
            "sources": result.sources,
        }

    def _without_own_night(
        self, coadds: list[tuple[CellCoadd, Patch]], night: int, where: str
    ) -> list[tuple[CellCoadd, Patch]]:
        """Leave out the patches that hold visits of the night itself, unless they are allowed."""
        if self.config.allow_own_night:
            return coadds
        own = [str(night) in str(coadd.metadata["NIGHTS"]).split(",") for coadd, _ in coadds]
        if coadds and all(own):
            raise pipe_base.NoWorkFound(f"{where}: the template holds visits of this very night, {night}")
        if any(own):
            refused = ", ".join(
                f"{patch.tract.id}/{patch.id}"
                for (_, patch), is_own in zip(coadds, own, strict=True)
                if is_own
            )
            self.log.warning("%s: templates with visits of this very night are left out: %s", where, refused)
        return [pair for pair, is_own in zip(coadds, own, strict=True) if not is_own]

    def _model(self) -> ReliabilityModel | None:
        """Read the reliability model. A shipped one that is broken is no reason to lose a night.

        Raises
        ------
        BadInputError
            The model that the configuration names cannot be read.
        """
        try:
            return read_model(self.config.reliability)
        except BadInputError as error:
            if self.config.reliability:
                raise
            self.log.warning("%s. The reliability is a ranking set by hand, no probability.", error)
            return None

"""Names of Butler collections.

Chains are ``{subset}/{coadd_subset}/{template_type}/{proc_type}`` with empty parts removed, as proc-decam
names them; every run writes ``{parent}/{pipeline}/{step}/{YYYYmmddTHHMMSSZ}``, true UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime

from tololo.facility.errors import BadInputError

REFCATS = "refcats"
SKYMAPS = "skymaps"
CALIBS = "DECam/calib"
BAD_PIXELS = "DECam/calib_bpm"
INJECTIONS = "injection"
RAW_RUN = "DECam/raw/all"
INSTCAL_RUN = "DECam/instcal/all"

INJECTED = "_injected"
DIFFERENCE = "diff_"

_PART = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_STAMP = "%Y%m%dT%H%M%SZ"
_STAMPED = re.compile(r"(?:.*/)?(\d{8}T\d{6}Z)", re.ASCII)
_VERSION = re.compile(r"v([1-9]\d*)", re.ASCII)


def check_part(part: str, what: str) -> str:
    """Return one part of a collection name, checked.

    Parameters
    ----------
    part : `str`
        Text between two slashes.
    what : `str`
        What the part is, for the message.

    Raises
    ------
    BadInputError
        If it is empty or holds anything but letters, digits, ``_`` and ``-``.
    """
    if not part:
        raise BadInputError(f"The {what} is empty", "collection name", f"give a {what}")
    if not _PART.fullmatch(part):
        raise BadInputError(
            f"The {what} {part!r} cannot be part of a collection name",
            "collection name",
            "use letters, digits, `_` and `-` only",
        )
    return part


def check_name(name: str, what: str = "collection name") -> str:
    """Return a whole collection name, each of its parts checked."""
    for part in name.split("/"):
        check_part(part, f"part of the {what} {name!r}" if part != name else what)
    return name


def chain(
    proc_type: str, subset: int | str = "", coadd_subset: int | str = "", template_type: str = ""
) -> str:
    """Name the chain of a subset of the data and a kind of processing.

    Parameters
    ----------
    proc_type : `str`
        ``bias``, ``flat``, ``drp``, ``instcal``, ``coadd``, ``diff_drp``, ``diff_instcal``, each also with
        ``_injected``.
    subset : `int` or `str`, optional
        Mostly a night.
    coadd_subset, template_type : optional
        Which template it uses or makes, such as ``2019`` and ``meanclip``.

    Returns
    -------
    name : `str`
        ``20190401/drp``, ``2019/meanclip/coadd``, ``20190401/2019/meanclip/diff_drp``.

    Raises
    ------
    BadInputError
        If a part is bad, or there is no processing type.
    """
    parts = {"subset": str(subset), "coadd_subset": str(coadd_subset), "template_type": template_type}
    checked = [check_part(part, what) for what, part in parts.items() if part]
    return "/".join([*checked, check_part(proc_type, "proc_type")])


def run(parent: str, pipeline: str, step: str, when: datetime) -> str:
    """Name the RUN that a step writes: ``{parent}/{pipeline}/{step}/{YYYYmmddTHHMMSSZ}``.

    Raises
    ------
    BadInputError
        If a part is bad.
    ValueError
        If ``when`` has no time zone: a local time labelled Z is a lie.
    """
    if when.tzinfo is None:
        raise ValueError(f"{when!r} has no time zone")
    stamp = when.astimezone(UTC).strftime(_STAMP)
    parts = [check_name(parent, "parent"), check_part(pipeline, "pipeline"), check_part(step, "step"), stamp]
    return "/".join(parts)


def run_time(name: str) -> datetime | None:
    """Return the UTC time in the name of a RUN, or `None` where it has none."""
    match = _STAMPED.fullmatch(name)
    if match is None:
        return None
    try:
        return datetime.strptime(match[1], _STAMP).replace(tzinfo=UTC)
    except ValueError:
        return None


def newest_first(runs: Iterable[str]) -> list[str]:
    """Sort RUNs as a chain searches them: the dated ones, newest first, then the undated by name."""
    oldest = datetime.min.replace(tzinfo=UTC)
    by_name = sorted(set(runs))
    return sorted(by_name, key=lambda name: run_time(name) or oldest, reverse=True) if by_name else []


def raws(parent: str) -> str:
    """Name the TAGGED collection of the input of a chain: ``20190401/bias/raw``, ``20180211/instcal/raw``."""
    return f"{check_name(parent)}/raw"


def calib(night: int | str, kind: str) -> str:
    """Name the CALIBRATION collection of a night: ``20190401/calib/bias``."""
    return f"{check_part(str(night), 'night')}/calib/{check_part(kind, 'kind of calibration')}"


def coadd(coadd_subset: int | str, template_type: str) -> str:
    """Name the chain that always points at the accepted template: ``2019/meanclip/coadd``."""
    check_part(str(coadd_subset), "coadd_subset")
    return chain("coadd", coadd_subset=coadd_subset, template_type=template_type)


def coadd_inputs(coadd_subset: int | str, template_type: str) -> str:
    """Name the TAGGED collection of what a template is made from: ``2019/meanclip/coadd/inputs``."""
    return f"{coadd(coadd_subset, template_type)}/inputs"


def template_version(coadd_subset: int | str, template_type: str, version: int) -> str:
    """Name the parent of the RUNs of one version of a template: ``2019/meanclip/coadd/v3``.

    Raises
    ------
    BadInputError
        If a part is bad or the version is below 1.
    """
    if version < 1:
        raise BadInputError(
            f"Template version {version} does not exist", "template version", "count versions from 1"
        )
    return f"{coadd(coadd_subset, template_type)}/v{version}"


def version_of(name: str, coadd_chain: str) -> int | None:
    """Return the template version that a RUN below ``coadd_chain`` belongs to, or `None`."""
    rest = name.removeprefix(f"{coadd_chain}/")
    match = _VERSION.fullmatch(rest.split("/")[0]) if rest != name else None
    return int(match[1]) if match else None


def injected(name: str) -> str:
    """Name the sibling of a chain that holds injected sources: ``20190401/drp_injected``."""
    return name if name.endswith(INJECTED) else check_name(name) + INJECTED


def is_injected(name: str) -> bool:
    """Tell whether a chain, or a RUN below it, holds injected sources."""
    return any(part.endswith(INJECTED) for part in name.split("/"))


def injection(catalogue: str) -> str:
    """Name the RUN of a catalogue of sources to inject: ``injection/ring``."""
    return f"{INJECTIONS}/{check_part(catalogue, 'name of the injection catalogue')}"


def difference(proc_type: str) -> str:
    """Name the processing type of the difference images of visits: ``diff_drp``."""
    return DIFFERENCE + check_part(proc_type, "proc_type")


def apdb(
    coadd_subset: int | str, template_type: str, *, injected: bool = False, name: str | None = ""
) -> str:
    """Name the APDB of a template: ``2019_meanclip``, or ``2019_meanclip_injected``.

    Parameters
    ----------
    coadd_subset, template_type
        As in `chain`.
    injected : `bool`, optional
        Whether it is for visits with injected sources.
    name : `str`, optional
        What the operator calls it.

    Raises
    ------
    BadInputError
        If a part is bad, or the operator's name belongs to the other kind of visits: injected sources never
        enter an APDB of the sky, nor the other way round.
    """
    if not name:
        parts = [check_part(str(coadd_subset), "coadd_subset"), template_type]
        return "_".join(filter(None, parts)) + (INJECTED if injected else "")
    if name.endswith(INJECTED) != injected:
        holds = f"is for {'' if name.endswith(INJECTED) else 'no '}injected sources"
        raise BadInputError(
            f"The APDB {name!r} {holds}, these visits have {'some' if injected else 'none'}",
            "param apdb",
            f"use a name that {'ends' if injected else 'does not end'} in {INJECTED}, or leave it empty",
        )
    return check_part(name, "name of the APDB")


def chain_inputs(
    proc_type: str,
    subset: int | str = "",
    coadd_subset: int | str = "",
    template_type: str = "",
    catalogue: str = "",
) -> list[str]:
    """List what a chain reads after its own RUNs, in search order.

    Parameters
    ----------
    proc_type, subset, coadd_subset, template_type
        As in `chain`.
    catalogue : `str`, optional
        Name of the catalogue that is injected into visits. Difference images have it from their visits.

    Returns
    -------
    inputs : `list` [`str`]

    Raises
    ------
    BadInputError
        If the processing type is not known or a part is bad, or injected visits have no catalogue, or others
        have one.
    """
    kind = proc_type.removesuffix(INJECTED)
    own = chain(kind, subset, coadd_subset, template_type)
    if kind.startswith(DIFFERENCE):
        visits = kind.removeprefix(DIFFERENCE) + (INJECTED if proc_type != kind else "")
        return [coadd(coadd_subset, template_type), chain(visits, subset)]
    if bool(catalogue) != (proc_type != kind):
        raise BadInputError(
            f"{proc_type} {f'has no sources of {catalogue!r}' if catalogue else 'needs a catalogue'}",
            "collection name",
            f"visits with injected sources end in {INJECTED} and name their catalogue",
        )
    sources = [injection(catalogue)] if catalogue else []
    match kind:
        case "instcal":
            return [*sources, REFCATS, SKYMAPS, raws(own)]
        case "drp":
            calibs = [calib(subset, "flat"), calib(subset, "bias"), BAD_PIXELS, CALIBS]
            return [*sources, REFCATS, SKYMAPS, *calibs, raws(own)]
        case "flat" if not sources:
            return [calib(subset, "bias"), CALIBS, raws(own)]
        case "bias" if not sources:
            return [CALIBS, raws(own)]
        case "coadd" if not sources:
            return [coadd_inputs(coadd_subset, template_type), SKYMAPS, REFCATS]
    raise BadInputError(
        f"The processing type {proc_type!r} is not known",
        "collection name",
        "use bias, flat, drp, instcal, coadd, diff_drp or diff_instcal; visits and differences also with "
        f"{INJECTED}",
    )

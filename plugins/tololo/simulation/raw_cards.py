"""Headers of simulated raws: the cards of real ones, with the values of the plan."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from astropy.io import fits

from tololo.reduction.instrument.detectors import PIXEL_SIZE
from tololo.reduction.instrument.filters import physical_filter_of
from tololo.simulation.cards import TELESCOPE, Observation, sexagesimal
from tololo.simulation.raw_camera import OVERSCAN, PRESCAN, Amplifier, Chip, section
from tololo.simulation.raw_plan import RawPlan
from tololo.simulation.raw_schedule import RawExposure
from tololo.simulation.sky import wcs_header

UNKNOWN_FILTER = "q DECam c0099 1234.0 100.0"

CENTRED = (1030, 2023)
"""By how much CRPIX1 and CRPIX2 of real files of 2020 are less than those that fit the assembled CCD.

Half the raw, less 50 pixels."""

_DELAY = {"zero": 0.04, "dome flat": 1.1, "object": 1.1}  # dark time beyond the exposure, s

_DETECTOR = """
FPA     = 'DECAM_BKP1'         / DECam focal plane name
BUNIT   = 'adu     '           / Brightness units for pixel array
WCSAXES =                    2 / WCS Dimensionality
DETSIZE = '[1:29400,1:29050]'  / Detector size
INHERIT =                    T / Inherits PHDU header
CCDBIN1 =                    1 / Pixel binning, axis 1
CCDBIN2 =                    1 / Pixel binning, axis 2
DHEINF  = 'MNSN fermi hardware' / DHE Hardware
DHEFIRM = 'demo30  '           / DHE Firmware
LTM1_1  =                  1.0 / Detector to image transformation
LTM1_2  =                  0.0 / Detector to image transformation
LTM2_1  =                  0.0 / Detector to image transformation
LTM2_2  =                  1.0 / Detector to image transformation
VALIDA  =                    T / Data from amp A is valid
VALIDB  =                    T / Data from amp B is valid
NDONUTS =                    0 / AOS number of donuts analyzed for this CCD
RADESYS = 'FK5     '           / World coordinate reference frame
EQUINOX =               2000.0 / [yr] Equinox of WCS
"""


def raw_primary(plan: RawPlan, exposure: RawExposure, extensions: int) -> fits.Header:
    """Return the primary header of a raw.

    Parameters
    ----------
    plan : `RawPlan`
    exposure : `RawExposure`
    extensions : `int`
        How many HDUs follow.
    """
    seen, kind = exposure.seen, exposure.kind
    band, exptime = seen.planned.band, seen.planned.exptime
    filter_name = physical_filter_of(band)
    if exposure.fault is not None and exposure.fault.kind == "unknown_filter":
        filter_name = UNKNOWN_FILTER
    name = {"zero": "bias", "dome flat": f"dome flat {band}", "object": plan.object_name}[kind]
    header = fits.Header.fromstring(TELESCOPE.strip("\n"), sep="\n")
    header.update(
        PROCTYPE=("raw", "Data processing level"),
        PRODTYPE=("image", "Data product type"),
        NEXTEND=(extensions, "Number of extensions"),
        FILENAME=(f"DECam_{seen.visit:08d}.fits", "Filename"),
        EXPREQ=(exptime, "[s] Requested exposure duration"),
        EXPTIME=(exptime, "[s] Exposure duration"),
        DARKTIME=(exptime + _DELAY[kind], "[s] Dark time"),
        OBSID=(f"ct4m{seen.begin:%Y%m%dt%H%M%S}", "Unique Observation ID"),
        OPENSHUT=(f"{seen.begin:%Y-%m-%dT%H:%M:%S.%f}", "Time when shutter opened (UTC)"),
        EXPNUM=(seen.visit, "DECam exposure number"),
        OBJECT=(name, "Object name"),
        OBSTYPE=(kind, "Observation type"),
        CAMSHUT=("Closed" if kind == "zero" else "Open", "Camera shutter at exposure start"),
        FILTER=(filter_name, "Unique filter identifier"),
        INSTANCE=(f"DECam_{exposure.night.night}", "SISPI instance name"),
        DTUTC=(
            f"{seen.begin + timedelta(seconds=exptime + 30):%Y-%m-%dT%H:%M:%S}",
            "post exposure UTC epoch from DTS",
        ),
        DTNSANAM=(exposure.name, "file name in the archive"),
        DTCALDAT=(exposure.caldat, "calendar date from observing schedule"),
        DTACQNAM=f"/data_local/images/DTS/2019A-0000/DECam_{seen.visit:08d}.fits.fz",
    )
    begin = seen.begin
    header["DATE-OBS"] = (f"{begin:%Y-%m-%dT%H:%M:%S.%f}", "DateTime of observation start (UTC)")
    header["TIME-OBS"] = (f"{begin:%H:%M:%S.%f}", "Time of observation start (UTC)")
    header["MJD-OBS"] = (round(seen.mjd, 8), "MJD of observation start")
    header.update(_pointing(exposure))
    return header


def _pointing(exposure: RawExposure) -> dict[str, Any]:
    """Return where the telescope says it points; calibrations say less, as real ones do."""
    ra, dec = exposure.header_ra, exposure.header_dec
    cards: dict[str, Any] = {
        "RA": (sexagesimal(ra / 15, 3), "[HH:MM:SS] Target RA"),
        "DEC": (sexagesimal(dec, 3), "[DD:MM:SS] Target DEC"),
        "TELRA": (sexagesimal(ra / 15, 3), "[HH:MM:SS] Telescope RA"),
        "TELDEC": (sexagesimal(dec, 3), "[DD:MM:SS] Telescope DEC"),
    }
    if exposure.kind == "object":
        believed = Observation(**{**vars(exposure.seen), "ra": ra, "dec": dec})
        zenith, azimuth = believed.horizon()
        cards |= {
            "TELSTAT": ("Track", "Telescope tracking status"),
            "HA": (sexagesimal(believed.hour_angle / 15, 2), "[HH:MM:SS] Telescope hour angle"),
            "ZD": (round(zenith, 2), "[deg] Telescope zenith distance"),
            "AZ": (round(azimuth, 4), "[deg] Telescope azimuth angle"),
            "AIRMASS": (round(believed.airmass, 2), "Airmass"),
        }
    return cards


def raw_detector_header(plan: RawPlan, exposure: RawExposure, chip: Chip) -> fits.Header:
    """Return the header of one CCD.

    Its WCS is that of the nominal camera at the pointing that the telescope believes in. CRPIX counts pixels
    of the assembled CCD, unless the plan wants it otherwise.
    """
    header = fits.Header.fromstring(_DETECTOR.strip("\n"), sep="\n")
    header.update(_sections(chip))
    header.update(
        DETECTOR=(chip.nominal.serial, "Detector Identifier"),
        CCDNUM=(chip.ccd.id, "CCD number"),
        DETPOS=(chip.ccd.name, "detector position ID"),
        EXTNAME=(chip.ccd.name, "extension name"),
        LTV1=(float(PRESCAN + OVERSCAN), "Detector to image transformation"),
        LTV2=(float(chip.amplifiers[0].data[0].start), "Detector to image transformation"),
    )
    for amplifier in chip.amplifiers:
        name = amplifier.name
        header[f"GAIN{name}"] = (amplifier.header_gain, f"[electrons/adu] Gain for amp {name}")
        header[f"RDNOISE{name}"] = (amplifier.header_read_noise, f"[electrons] Read noise for amp {name}")
        header[f"SATURAT{name}"] = (amplifier.header_saturation, f"[adu] Saturation for amp {name}")
    wcs = wcs_header(chip.nominal, plan.sky)
    wcs["CRVAL1"], wcs["CRVAL2"] = exposure.header_ra, exposure.header_dec
    if plan.centred_crpix:
        wcs["CRPIX1"] -= CENTRED[0]
        wcs["CRPIX2"] -= CENTRED[1]
    header.update(wcs)
    return header


def _sections(chip: Chip) -> dict[str, tuple[str, str]]:
    """Return the section cards of a CCD and of both its amplifiers."""
    ny, nx = chip.shape
    rows = chip.amplifiers[0].data[0]
    first = PRESCAN + OVERSCAN
    whole = section((rows, slice(first, first + nx)))
    # Places on a focal plane without gaps: CCDs are 2254.4 and 4259.3 pixels apart, rows shifted by a half.
    x0 = round(chip.ccd.x / PIXEL_SIZE / 2254.4 + 6.5) * 2048
    y0 = round(chip.ccd.y / PIXEL_SIZE / 4259.33 * 2 + 6) * 2048
    detector = (slice(y0, y0 + ny), slice(x0, x0 + nx))
    cards = {
        "TRIMSEC": (whole, "Good section"),
        "DATASEC": (whole, "Data section to display"),
        "DETSEC": (section(detector), "Location of this CCD on Focal Plane"),
        "CCDSEC": (section((slice(0, ny), slice(0, nx))), "CCD section to display"),
    }
    for amplifier in chip.amplifiers:
        cards |= _amplifier_sections(amplifier, x0, y0, chip.ccd.side == "S")
    return cards


def _amplifier_sections(amplifier: Amplifier, x0: int, y0: int, south: bool) -> dict[str, tuple[str, str]]:
    name, (rows, columns) = amplifier.name, amplifier.target
    tile = (slice(rows.start + y0, rows.stop + y0), slice(columns.start + x0, columns.stop + x0))
    left = columns.start == 0
    order_x = f"{columns.start + 1}:{columns.stop}" if left else f"{columns.stop}:{columns.start + 1}"
    order_y = f"{rows.stop}:{rows.start + 1}" if south else f"{rows.start + 1}:{rows.stop}"
    return {
        f"TRIMSEC{name}": (section(amplifier.data), f"Good section from amp {name}"),
        f"DETSEC{name}": (section(tile), f"Detector display tile for amp {name}"),
        f"CCDSEC{name}": (section(amplifier.target), f"CCD section from amp {name}"),
        f"AMPSEC{name}": (f"[{order_x},{order_y}]", f"CCD section in read order for amp {name}"),
        f"DATASEC{name}": (section(amplifier.data), f"Data section from amp {name}"),
        f"BIASSEC{name}": (section(amplifier.overscan), f"Overscan from amp {name}"),
        f"PRESEC{name}": (section(amplifier.prescan), f"Prescan from amp {name}"),
        f"POSTSEC{name}": (section(amplifier.postscan), f"Postscan from amp {name}"),
    }

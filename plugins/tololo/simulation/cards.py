"""Headers of simulated InstCal files: the cards of real ones, with the values of the plan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from astropy.io import fits

from tololo.facility.nights import MJD_EPOCH, night_bounds
from tololo.reduction.instrument.filters import physical_filter_of
from tololo.simulation.plan import PlannedExposure
from tololo.simulation.sky import Ccd

PLVER = "V5.5"
PRODUCTS = {"ooi": "image", "oow": "wtmap", "ood": "dqmask"}

_LONGITUDE, _LATITUDE = -70.81489, -30.16606
_FIRST_EXPNUM = 840001
_HOURS_AFTER_NOON = 17.0  # 5 h UTC: around midnight at CTIO
_CADENCE = timedelta(seconds=150)

# What does not depend on the exposure, as real primary headers have it: all of them, and those of InstCal.
TELESCOPE = """
PIXSCAL1=                 0.27 / [arcsec/pixel] Pixel scale, axis 1
PIXSCAL2=                 0.27 / [arcsec/pixel] Pixel scale, axis 2
OBS-LONG=             70.81489 / [deg] Observatory longitude
TELESCOP= 'CTIO 4.0-m telescope' / Telescope name
OBSERVAT= 'CTIO    '           / Observatory name
OBS-LAT =            -30.16606 / [deg] Observatory latitude
OBS-ELEV=                2215. / [m] Observatory elevation
INSTRUME= 'DECam   '           / Instrument used to obtain these data
TIMESYS = 'UTC     '           / Time system
PROGRAM = 'Simulated by Tololo' / Current observing program
OBSERVER= 'Tololo simulator'   / Observer name(s)
PROPOSER= 'Tololo  '           / Proposal Principle Investigator
DTPI    = 'Tololo  '           / Principal Investigator
PROPID  = '2019A-0000'         / Proposal ID
EXCLUDED= '        '           / DECam components not used for this frame
AOS     =                    T / AOS data available if true
BCAM    =                    F / BCAM data available if true
GUIDER  =                    1 / Guider (0-absent,1-ok,2-lost star,3-los
SKYSTAT =                    T / Cloud camera (RASICAM) available if true
ERRORS  = 'None    '           / SISPI readout errors
TELEQUIN=                2000. / Equinox of telescope coordinates
TELFOCUS= '-610.65,-3607.31,2593.11,126.63,-128.29,-0.00' / Hexapod
VSUB    =                    T / True if CCD substrate voltage is on
GSKYPHOT=                    T / RASICAM global sky clear flag
LSKYPHOT=                    T / RASICAM local sky clear flag
WINDSPD =                 10.6 / [m/s] Wind speed
WINDDIR =                  11. / [deg] Wind direction (from North)
HUMIDITY=                  38. / [%] Ambient relative humidity (outside)
PRESSURE=                 779. / [Torr] Barometric pressure (outside)
OUTTEMP =                 12.1 / [deg C] Outside temperature
MULTIEXP=                    F / Frame contains multiple exposures if true
HDRVER  = '13      '           / DECam fits header version
DTSITE  = 'ct      '           / observatory location
DTTELESC= 'ct4m    '           / telescope identifier
DTINSTRU= 'decam   '           / instrument identifier
DTPROPID= '2019A-0000'         / observing proposal ID
DETSIZE = '[1:29400,1:29050]'  / Detector size
RADESYS = 'FK5     '           / World coordinate reference frame
SIMULATE=                    T / These pixels were never seen by a telescope
"""

_INSTCAL = """
OBJECT  = 'tololo simulation'  / Name of the object observed
PROCTYPE= 'InstCal '           / Data processing level
OBSTYPE = 'object  '           / Type of observation
CAMSHUT = 'Open    '           / Camera shutter at exposure start
TELSTAT = 'Track   '           / Telescope tracking status
CCDSEC  = '[1:2048,1:4096]'    / CCD section to display
CCDBIN1 =                    1 / Pixel binning, axis 1
CCDBIN2 =                    1 / Pixel binning, axis 2
EQUINOX =                2000. / Mean equinox
VALIDA  =                    T / Data from amp A is valid
VALIDB  =                    T / Data from amp B is valid
PHOTFLAG=                    0 / Night Photometric (1) or not (0)
DES_EXT = 'IMAGE   '
RADECSYS= 'ICRS    '           / Astrometric system
SCAMPFLG=                    0 / WCS successful
PHOTREF = 'GAIA    '           / Photometric ref. catalog
WCSCAL  = 'Successful'         / Astrometric calibration
PLDNAME = 'TOLOLO_SIMULATION'
PLPROCID= '0000001 '
"""


@dataclass(frozen=True)
class Observation:
    """An exposure with everything that its headers say about it.

    Attributes
    ----------
    visit : `int`
        EXPNUM.
    planned : `PlannedExposure`
    begin : `datetime.datetime`
        UTC.
    ra, dec : `float`
        Where the telescope points, degrees.
    fwhm : `float`
        Arcsec.
    zero_point : `float`
        True AB magnitude of 1 ADU in the exposure.
    header_zero_point : `float`
        What MAGZERO says, which is a little off, as in real files.
    transparency : `float`
    sky : `float`
        ADU, mean.
    """

    visit: int
    planned: PlannedExposure
    begin: datetime
    ra: float
    dec: float
    fwhm: float
    zero_point: float
    header_zero_point: float
    transparency: float
    sky: float

    @property
    def mjd(self) -> float:
        """Start, MJD UTC."""
        return (self.begin - MJD_EPOCH) / timedelta(days=1)

    @property
    def hour_angle(self) -> float:
        """Of the pointing at the start, -180 to 180 degrees; negative in the east."""
        sidereal = 280.46061837 + 360.98564736629 * (self.mjd - 51544.5) + _LONGITUDE
        return (sidereal - self.ra + 180) % 360 - 180

    @property
    def airmass(self) -> float:
        """Secant of the zenith distance at the start."""
        return 1 / math.cos(math.radians(self.horizon()[0]))

    @property
    def row(self) -> dict[str, Any]:
        """What the truth table says of the exposure, whatever its files are."""
        return {
            "visit": self.visit,
            "night": self.planned.night,
            "band": self.planned.band,
            "science": self.planned.science,
            "mjd_utc": self.mjd,
            "exptime": self.planned.exptime,
            "fwhm": self.fwhm,
            "zero_point": self.zero_point,
            "transparency": self.transparency,
            "sky": self.sky,
            "airmass": self.airmass,
        }

    def name(self, product: str) -> str:
        """File name of a product (``ooi``, ``oow`` or ``ood``), as the archive gives it."""
        return f"c4d_{self.begin:%y%m%d_%H%M%S}_{product}_{self.planned.band}_v1.fits.fz"

    def horizon(self) -> tuple[float, float]:
        """Return zenith distance and azimuth (north to east) at the start, degrees."""
        hour_angle, dec, latitude = map(math.radians, (self.hour_angle, self.dec, _LATITUDE))
        up = math.sin(latitude) * math.sin(dec) + math.cos(latitude) * math.cos(dec) * math.cos(hour_angle)
        north = math.cos(latitude) * math.sin(dec) - math.sin(latitude) * math.cos(dec) * math.cos(hour_angle)
        east = -math.cos(dec) * math.sin(hour_angle)
        return math.degrees(math.acos(up)), math.degrees(math.atan2(east, north)) % 360


def begin_of(planned: PlannedExposure, number: int) -> datetime:
    """Return when the ``number``-th exposure of a night begins, UTC."""
    noon = night_bounds(planned.night)[0].astimezone(UTC)
    start = noon + timedelta(hours=_HOURS_AFTER_NOON)
    return start.replace(microsecond=0) + number * _CADENCE


def visit_of(number: int) -> int:
    """Return EXPNUM of the ``number``-th exposure of a simulation."""
    return _FIRST_EXPNUM + number


def primary_header(seen: Observation, product: str, detectors: int) -> fits.Header:
    """Return the primary header of one file of a triple."""
    planned, begin = seen.planned, seen.begin
    end = begin + timedelta(seconds=planned.exptime)
    zenith, azimuth = seen.horizon()
    filter_name = physical_filter_of(planned.band)
    header = fits.Header.fromstring((TELESCOPE + _INSTCAL.lstrip("\n")).strip("\n"), sep="\n")
    header.update(
        PRODTYPE=(PRODUCTS[product], "Data product type"),
        EXPREQ=(planned.exptime, "[s] Requested exposure duration"),
        EXPTIME=(planned.exptime, "[s] Exposure duration"),
        EXPDUR=(planned.exptime, "[s] Exposure duration"),
        DARKTIME=(planned.exptime + 0.75, "[s] Dark time"),
        OBSID=(f"ct4m{begin:%Y%m%dt%H%M%S}", "Unique Observation ID"),
        EXPNUM=(seen.visit, "DECam exposure number"),
        FILTER=(filter_name, "Unique filter identifier"),
        BAND=planned.band,
        INSTANCE=(f"DECam_{planned.night}", "SISPI instance name"),
        NITE=str(planned.night),
        DTUTC=(end.strftime("%Y-%m-%dT%H:%M:%S"), "post exposure UTC epoch from DTS"),
        DTNSANAM=(seen.name(product), "file name in the archive"),
        RA=(sexagesimal(seen.ra / 15, 3), "[HH:MM:SS] Target RA"),
        DEC=(sexagesimal(seen.dec, 2), "[DD:MM:SS] Target DEC"),
        TELRA=(sexagesimal(seen.ra / 15, 3), "[HH:MM:SS] Telescope RA"),
        TELDEC=(sexagesimal(seen.dec, 2), "[DD:MM:SS] Telescope DEC"),
        CENTRA=(seen.ra, "[deg] RA exposure center"),
        CENTDEC=(seen.dec, "[deg] DEC exposure center"),
        ZD=(round(zenith, 2), "[deg] Telescope zenith distance"),
        AZ=(round(azimuth, 4), "[deg] Telescope azimuth angle"),
        AIRMASS=(round(seen.airmass, 2), "Airmass"),
        MAGZERO=(round(seen.header_zero_point, 3), "[mag] Magnitude zero point"),
        MAGZPT=(
            round(seen.header_zero_point - 2.5 * math.log10(planned.exptime), 3),
            "[mag] Magnitude zero point per sec",
        ),
        NEXTEND=detectors,
        PLVER=PLVER,
    )
    header["DATE-OBS"] = (begin.strftime("%Y-%m-%dT%H:%M:%S.%f"), "DateTime of observation start (UTC)")
    header["TIME-OBS"] = (begin.strftime("%H:%M:%S.%f"), "Time of observation start (UTC)")
    header["MJD-OBS"] = (round(seen.mjd, 8), "MJD of observation start")
    header["MJD-END"] = (round(seen.mjd + planned.exptime / 86400, 9), "Exposure end")
    return header


def detector_header(
    seen: Observation, chip: Ccd, wcs: fits.Header, sky: float, noise: float, fwhm: float
) -> fits.Header:
    """Return the header of one CCD.

    Parameters
    ----------
    seen : `Observation`
    chip : `Ccd`
    wcs : `astropy.io.fits.Header`
        Its WCS cards.
    sky, noise : `float`
        Median and scatter of blank sky, ADU.
    fwhm : `float`
        Pixels.
    """
    header = wcs.copy()
    header.update(
        EXTNAME=chip.name,
        INHERIT=(True, "Inherits global header"),
        DETECTOR=(chip.serial, "Detector Identifier"),
        CCDNUM=(chip.ccdnum, "CCD number"),
        DETPOS=(chip.name, "detector position ID"),
        SATURATE=chip.saturation,
        AVSKY=round(sky, 4),
        AVSIG=round(noise, 5),
        FWHM=(round(fwhm, 5), "Median FWHM in pixels"),
        ARAWGAIN=(4.5, "[e/adu] Average raw gain"),
    )
    for amplifier in "AB":
        header[f"GAIN{amplifier}"] = chip.gain
        header[f"RDNOISE{amplifier}"] = (chip.read_noise, f"[electrons] Read noise for amp {amplifier}")
        header[f"SATURAT{amplifier}"] = chip.saturation
    return header


def sexagesimal(value: float, digits: int) -> str:
    """Write degrees or hours as ``-DD:MM:SS.sss`` with so many digits of the second."""
    units = round(abs(value) * 3600 * 10**digits)
    whole, rest = divmod(units, 3600 * 10**digits)
    minutes, seconds = divmod(rest, 60 * 10**digits)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole:02d}:{minutes:02d}:{seconds / 10**digits:0{3 + digits}.{digits}f}"

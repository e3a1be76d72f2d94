"""The 62 science detectors of DECam: ids, names, places on the focal plane, amplifiers.

The focus and guide CCDs (ids 63 to 74) are left out: they are not calibrated as images. Numbers: the chip
centres, rotations and amplifier table published with the camera (nominal; a header's own gain goes before).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import cos, radians, sin
from typing import TYPE_CHECKING

import numpy as np

from tololo.facility.errors import BadInputError

if TYPE_CHECKING:
    from lsst.images.cameras import Amplifier, AmplifierRawGeometry, CameraFrameSet, Detector, ReadoutCorner

INSTRUMENT = "DECam"
WIDTH, HEIGHT = 2048, 4096
PIXEL_SIZE = 0.015  # mm

# Field angle in radians over focal plane radius in mm: r -> c1 r + c3 r^3, optics of the corrector.
_RADIAL = (8.516497674138379e-05, -4.501399132955917e-12)
_AMPLIFIER, _OVERSCAN, _PRESCAN, _POSTSCAN = 1024, 50, 6, 50
_SEGMENT = _AMPLIFIER + _OVERSCAN + _PRESCAN

# id name  x y (mm)  rotation (deg)  A: gain (e-/ADU) read noise (e-) saturation (ADU)  B: the same
_TABLE = """
1 S29 -185.592 -63.748 -0.010 4.039 6.139 38652 3.781 5.982 37531
2 S30 -185.542 -0.024 -0.105 4.180 6.124 41945 4.150 6.184 48203
3 S31 -185.618 63.776 0.000 3.894 5.993 42449 3.885 5.905 42345
4 S25 -151.832 -95.611 -0.004 4.061 6.051 42059 4.249 6.080 42605
5 S26 -151.870 -31.869 0.025 4.085 6.209 47929 4.240 6.415 41000
6 S27 -151.904 31.901 -0.025 3.793 5.936 50010 3.997 6.203 43534
7 S28 -151.852 95.595 0.004 4.128 6.258 43219 3.940 6.209 42163
8 S20 -118.018 -127.452 0.030 3.917 5.703 43397 3.725 5.815 48732
9 S21 -118.166 -63.738 -0.020 3.870 5.944 46442 3.935 6.162 45402
10 S22 -118.134 0.002 0.006 3.881 6.182 47817 4.036 6.232 46155
11 S23 -118.174 63.738 -0.030 3.966 6.112 44428 4.047 6.362 46770
12 S24 -118.086 127.486 -0.027 3.952 6.019 47000 4.170 6.434 43941
13 S14 -84.268 -159.323 -0.004 3.992 5.900 43172 3.975 5.784 42871
14 S15 -84.380 -95.689 0.010 3.809 5.729 47577 4.053 5.873 44265
15 S16 -84.466 -31.907 0.011 3.821 6.026 46000 4.031 6.220 46370
16 S17 -84.384 31.891 0.008 3.848 6.161 44000 4.057 6.341 44467
17 S18 -84.460 95.663 -0.040 3.654 5.930 48000 4.110 6.264 42982
18 S19 -84.316 159.413 0.019 3.889 5.962 49415 4.028 6.187 49231
19 S8 -50.620 -159.277 0.016 3.945 5.894 40534 3.999 5.955 39960
20 S9 -50.596 -95.689 -0.001 4.018 5.826 46380 4.003 5.816 42551
21 S10 -50.700 -31.931 0.007 4.011 6.157 47000 4.008 6.180 43939
22 S11 -50.758 31.915 -0.022 4.068 6.269 52795 3.970 6.265 46334
23 S12 -50.698 95.761 -0.022 3.999 6.266 44823 4.091 6.325 46250
24 S13 -50.634 159.391 -0.016 3.778 6.060 48000 4.108 6.285 50504
25 S1 -16.798 -191.216 0.007 4.104 6.119 40469 3.958 6.000 42151
26 S2 -16.894 -127.524 0.003 3.747 5.748 47435 3.984 5.928 44650
27 S3 -16.850 -63.792 -0.010 3.838 5.976 33874 4.071 6.054 28164
28 S4 -16.892 0.092 0.019 3.934 10.209 45246 4.148 10.341 42626
29 S5 -16.836 63.824 0.010 4.088 10.367 47232 4.094 10.427 42720
30 S6 -16.850 127.636 0.001 4.086 10.146 57491 4.016 10.405 44346
31 S7 -16.898 191.268 0.023 3.510 9.624 37951 3.940 10.071 44138
32 N1 16.894 -191.252 -0.024 3.875 5.789 50304 3.924 6.102 45586
33 N2 16.884 -127.546 -0.012 3.944 5.959 44938 4.156 6.163 42834
34 N3 16.922 -63.836 0.010 3.915 5.833 39748 4.068 5.935 49000
35 N4 16.908 -0.018 0.003 4.025 12.268 44144 4.077 11.954 43448
36 N5 16.978 63.708 0.050 3.989 12.162 45844 4.180 12.314 43798
37 N6 16.872 127.480 0.008 4.006 11.449 46753 4.295 11.837 39364
38 N7 16.878 191.230 -0.014 4.435 12.689 40983 4.271 12.189 42716
39 N8 50.662 -159.379 0.011 3.869 5.877 44177 4.160 6.020 42492
40 N9 50.682 -95.727 0.007 3.843 5.718 51000 4.096 5.923 44144
41 N10 50.664 -31.911 0.016 3.911 5.941 47271 4.127 6.170 39973
42 N11 50.714 31.933 0.015 4.018 5.975 45678 3.983 6.074 46060
43 N12 50.678 95.689 0.017 4.008 6.064 39602 3.917 5.907 40252
44 N13 50.646 159.333 0.010 3.788 5.970 38914 3.970 6.241 43511
45 N14 84.352 -159.393 0.026 3.903 5.878 48694 4.139 6.026 42599
46 N15 84.384 -95.787 0.005 4.036 5.836 38696 4.148 6.039 37655
47 N16 84.412 -31.899 -0.025 3.991 5.971 46559 4.046 5.895 41908
48 N17 84.482 31.787 0.032 4.026 6.047 41302 4.260 6.275 38771
49 N18 84.388 95.663 0.012 3.981 5.824 49133 4.134 6.135 42883
50 N19 84.308 159.357 0.006 3.950 5.806 46642 4.188 6.114 40239
51 N20 118.086 -127.458 -0.018 3.940 5.760 48450 4.135 6.016 39981
52 N21 118.086 -63.762 -0.007 4.005 5.923 40268 4.076 5.975 42913
53 N22 118.090 0.050 -0.008 3.998 6.101 40698 4.142 6.080 42397
54 N23 118.166 63.754 0.006 3.877 5.947 50306 4.156 6.188 41791
55 N24 118.074 127.464 0.010 3.830 5.979 46959 3.837 5.913 43185
56 N25 151.808 -95.587 -0.008 3.892 5.748 48147 4.091 5.875 42401
57 N26 151.800 -31.935 0.000 3.759 5.932 36677 3.665 5.725 33214
58 N27 151.860 31.847 0.039 4.215 6.116 43135 4.072 6.067 41106
59 N28 151.794 95.557 0.021 3.959 5.923 41544 3.881 5.868 42196
60 N29 185.558 -63.732 -0.012 3.743 5.832 43295 3.616 5.760 41383
61 N30 185.504 0.016 0.000 3.700 5.472 56282 4.140 6.541 45592
62 N31 185.550 63.794 -0.026 3.743 5.465 47995 3.487 5.813 43079
"""


@dataclass(frozen=True)
class ScienceDetector:
    """One CCD.

    Attributes
    ----------
    id : `int`
        ``CCDNUM``, 1 to 62.
    name : `str`
        ``DETPOS``, S1 to S31 and N1 to N31.
    x, y : `float`
        Centre on the focal plane, mm.
    rotation : `float`
        Degrees about the centre.
    gain, read_noise, saturation : `dict` [`str`, `float`]
        Nominal values of amplifiers A and B: e-/ADU, e-, ADU.
    """

    id: int
    name: str
    x: float
    y: float
    rotation: float
    gain: dict[str, float]
    read_noise: dict[str, float]
    saturation: dict[str, float]

    @property
    def side(self) -> str:
        """``S`` or ``N``: the half of the focal plane, and the end at which the CCD is read."""
        return self.name[0]


@cache
def detectors() -> dict[int, ScienceDetector]:
    """Return the 62 science detectors by id."""
    return {detector.id: detector for detector in map(_read, _TABLE.split("\n")[1:-1])}


def detector(id_or_name: int | str) -> ScienceDetector:
    """Find a detector by its id (``31``) or its name (``S7``).

    Raises
    ------
    BadInputError
        If it is not one of the 62.
    """
    for candidate in detectors().values():
        if id_or_name in (candidate.id, candidate.name, str(candidate.id)):
            return candidate
    raise BadInputError(
        f"{id_or_name!r} is not a science detector of DECam",
        "detector",
        "use 1 to 62, or S1 to S31 and N1 to N31",
    )


@cache
def detector_geometry(detector_id: int, visit: int | None = None) -> Detector:
    """Build what a `~lsst.images.VisitImage` has to know about its detector.

    Parameters
    ----------
    detector_id : `int`
        1 to 62.
    visit : `int`, optional
        Visit to tie the coordinate systems to.

    Returns
    -------
    detector : `lsst.images.cameras.Detector`
        Box 2048 x 4096, both amplifiers, and the transforms pixels -> focal plane (mm) -> field angle (rad)
        of this detector alone, which keeps it small in a file. Shared: copy it before changing it.

    Raises
    ------
    BadInputError
        If it is not one of the 62.
    """
    from astropy import units
    from lsst.images import Box
    from lsst.images.cameras import Detector, DetectorAttributes, DetectorType, Orientation

    ccd = detector(detector_id)
    attributes = DetectorAttributes(
        name=ccd.name,
        id=ccd.id,
        type=DetectorType.SCIENCE,
        serial=str(ccd.id),
        bbox=Box.factory[0:HEIGHT, 0:WIDTH],
        orientation=Orientation(
            focal_plane_x=ccd.x,
            focal_plane_y=ccd.y,
            focal_plane_z=0.0,
            pixel_reference_x=(WIDTH - 1) / 2,
            pixel_reference_y=(HEIGHT - 1) / 2,
            yaw=(ccd.rotation * units.deg).to(units.rad),
        ),
        pixel_size=PIXEL_SIZE,
        physical_type="CCD",
    )
    amplifiers = [_amplifier(ccd, name) for name in ("A", "B")]
    return Detector(attributes, amplifiers, _frames(ccd), visit=visit)


def _read(line: str) -> ScienceDetector:
    number, name, *rest = line.split()
    x, y, rotation, gain_a, noise_a, full_a, gain_b, noise_b, full_b = map(float, rest)
    return ScienceDetector(
        int(number),
        name,
        x,
        y,
        rotation,
        {"A": gain_a, "B": gain_b},
        {"A": noise_a, "B": noise_b},
        {"A": full_a, "B": full_b},
    )


def _amplifier(ccd: ScienceDetector, name: str) -> Amplifier:
    from lsst.images import Box
    from lsst.images.cameras import Amplifier, AmplifierCalibrations, ReadoutCorner

    # The southern half is mounted upside down: A is on the right, both read out at the top.
    left = (name == "A") == (ccd.side == "N")
    x0 = 0 if left else _AMPLIFIER
    corner = ReadoutCorner.from_flips(y=ccd.side == "S", x=not left)
    return Amplifier(
        name=name,
        bbox=Box.factory[0:HEIGHT, x0 : x0 + _AMPLIFIER],
        readout_corner=corner,
        assembled_raw_geometry=_raw_geometry(left=left, top=ccd.side == "S", corner=corner),
        unassembled_raw_geometry=None,
        nominal_calibrations=AmplifierCalibrations(
            gain=ccd.gain[name],
            read_noise=ccd.read_noise[name],
            saturation=ccd.saturation[name],
            suspect_level=float("nan"),
            linearity_coefficients=np.zeros(4),
            linearity_type="None",
        ),
    )


def _raw_geometry(*, left: bool, top: bool, corner: ReadoutCorner) -> AmplifierRawGeometry:
    """Lay out one amplifier in the 2160 x 4146 raw: prescan, overscan and data from the edge inward."""
    from lsst.images import Box
    from lsst.images.cameras import AmplifierRawGeometry

    def columns(start: int, width: int) -> slice:
        first = start if left else 2 * _SEGMENT - start - width
        return slice(first, first + width)

    rows = slice(_POSTSCAN, _POSTSCAN + HEIGHT) if top else slice(0, HEIGHT)
    postscan = slice(0, _POSTSCAN) if top else slice(HEIGHT, HEIGHT + _POSTSCAN)
    data = columns(_PRESCAN + _OVERSCAN, _AMPLIFIER)
    return AmplifierRawGeometry(
        bbox=Box.factory[0 : HEIGHT + _POSTSCAN, columns(0, _SEGMENT)],
        data_bbox=Box.factory[rows, data],
        flip_x=False,
        flip_y=False,
        x_offset=0,
        y_offset=0,
        serial_overscan_bbox=Box.factory[rows, columns(_PRESCAN, _OVERSCAN)],
        parallel_overscan_bbox=Box.factory[postscan, data],
        prescan_bbox=Box.factory[rows, columns(0, _PRESCAN)],
        readout_corner=corner,
    )


def _frames(ccd: ScienceDetector) -> CameraFrameSet:
    """Chain pixels -> focal plane -> field angle as an AST frame set."""
    from lsst.images._transforms import (
        _ast as ast,
    )  # the package's own door to AST, whichever binding is there
    from lsst.images.cameras import CameraFrameSet

    angle = radians(ccd.rotation)
    turn = PIXEL_SIZE * np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    to_focal_plane = (
        ast.ShiftMap([-(WIDTH - 1) / 2, -(HEIGHT - 1) / 2])
        .then(ast.MatrixMap(turn))
        .then(ast.ShiftMap([ccd.x, ccd.y]))
        .simplified()
    )
    c1, c3 = _RADIAL
    terms = [[c1, 1, 1, 0], [c3, 1, 3, 0], [c3, 1, 1, 2], [c1, 2, 0, 1], [c3, 2, 2, 1], [c3, 2, 0, 3]]
    to_field_angle = ast.PolyMap(np.array(terms), 2, "IterInverse=1, NIterInverse=10, TolInverse=1e-10")
    pixels = ast.Frame(
        2,
        f"Ident=DETECTOR_{ccd.id}, Domain=PIXELS, Bottom(1)=0, Top(1)={WIDTH}, Bottom(2)=0, Top(2)={HEIGHT}",
    )
    frames = ast.FrameSet(pixels)
    focal_plane = ast.Frame(2, "Ident=FOCAL_PLANE, Domain=FOCAL_PLANE, Unit(1)=mm, Unit(2)=mm")
    frames.addFrame(1, to_focal_plane, focal_plane)
    field_angle = ast.Frame(2, "Ident=FIELD_ANGLE, Domain=FIELD_ANGLE, Unit(1)=rad, Unit(2)=rad")
    frames.addFrame(2, to_field_angle, field_angle)
    return CameraFrameSet(INSTRUMENT, frames)

"""LSST's FITS archive, written in one go."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Self

from astropy.io import fits
from astropy.time import Time
from lsst.images.fits import FitsCompressionOptions, FitsOutputArchive, suppress_fits_card_warnings
from lsst.images.serialization import no_header_updates

from tololo.reduction.formats.fits_layout import BLOCK


class DirectArchive(FitsOutputArchive):
    """The archive of `lsst.images.fits`, whose file is not opened again and again while it grows.

    LSST's own checks all cards that it has just made, and has astropy read all headers twice to find where
    the HDUs lie. The file is the same, and takes half the time beyond that of coding the pixels.
    """

    @classmethod
    @contextmanager
    def open(
        cls,
        filename: Path | str,
        compression_options: Mapping[str, FitsCompressionOptions | None] | None = None,
        opaque_metadata: Any = None,
        update_header: Callable[[fits.Header], None] = no_header_updates,
        compression_seed: int | None = None,
    ) -> Iterator[Self]:
        """Give an archive whose file is written when the context ends; nothing is written on an error.

        Parameters
        ----------
        filename : `pathlib.Path` or `str`
            The file, which must not exist.
        compression_options : `~collections.abc.Mapping`, optional
            How to compress the arrays, by their names.
        opaque_metadata : `object`, optional
            What came with the object from another file.
        update_header : callable, optional
            Is given the primary header, and may change it.
        compression_seed : `int`, optional
            Where dithering begins; one more for each array.

        Raises
        ------
        OSError
            If the file exists or cannot be written.
        """
        with suppress_fits_card_warnings():
            archive = cls(fits.HDUList(), compression_options, opaque_metadata, compression_seed)
            primary = archive._primary_hdu.header
            update_header(primary)
            primary.set("DATE", Time.now().fits, "UTC date this HDU was written.")
            yield archive
            archive._hdu_list.writeto(filename, output_verify="ignore")
        with fits.open(filename, disable_image_compression=True) as written:
            index = cls._make_index_table(written)
        begin, tail = os.path.getsize(filename), _content(index)
        tree = index.data[-1]
        primary["INDXADDR"], primary["INDXSIZE"] = begin, len(tail)
        primary["JSONADDR"] = int(tree["HDRADDR"])
        primary["JSONSIZE"] = int(tree["DATADDR"] + tree["DATSIZE"] - tree["HDRADDR"])
        with open(filename, "r+b") as stream:
            stream.write(primary.tostring().encode("ascii"))
            stream.seek(begin)
            stream.write(tail)


def _content(hdu: fits.BinTableHDU) -> bytes:
    """Return an HDU as it stands in a file."""
    content = BytesIO()
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(content, output_verify="ignore")
    return content.getvalue()[BLOCK:]

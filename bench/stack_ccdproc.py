"""The peer of `make bench NAME=stack`: clips and averages planes with ccdproc, each time it is asked to.

Runs in an environment of its own. Arguments: the file of planes (n, ny, nx), the file for the mean, sigmas.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from astropy.nddata import CCDData
from ccdproc import Combiner

PIECES = 4
"""Rows are combined in so many pieces: all at once would need 10 GB."""


def main() -> None:
    """Answer each line with the seconds that were spent on the arrays."""
    planes = np.load(sys.argv[1], mmap_mode="r")
    sigmas = float(sys.argv[3])
    for _ in sys.stdin:
        mean = np.empty(planes.shape[1:], np.float32)
        cpu = wall = 0.0
        for rows in np.array_split(np.arange(mean.shape[0]), PIECES):
            piece = slice(rows[0], rows[-1] + 1)
            images = [CCDData(np.array(plane[piece]), unit="adu") for plane in planes]
            began = time.process_time(), time.perf_counter()
            combiner = Combiner(images, dtype=np.float32)
            combiner.sigma_clipping(low_thresh=sigmas, high_thresh=sigmas, func="median", dev_func="std")
            mean[piece] = combiner.average_combine().data
            cpu, wall = cpu + time.process_time() - began[0], wall + time.perf_counter() - began[1]
        np.save(sys.argv[2], mean)
        print(json.dumps({"cpu": cpu, "wall": wall}), flush=True)


if __name__ == "__main__":
    main()

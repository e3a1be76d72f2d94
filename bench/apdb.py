"""What the association of one detector of a visit costs, as the APDB grows and as the overlap grows.

PostgreSQL is the embedded one. A database of 10^3, 10^5 and 10^6 diaObjects, of which 300 are on the detector
in each; then 10^5 with 300, 1,000 and 3,000 on it. The peer reads the same region and the same histories
through dax_apdb's own calls, as LSST's association task does before it matches; it stores nothing.

``OBJECTS=1000,100000`` measures other sizes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apdb_field import HISTORY_VISITS, Field
from astropy.time import Time
from lsst.dax.apdb import Apdb
from measure import Row, adopt_orphans, cost, machine, ratios, scratch, table, write

from tololo.reduction.apdb import CampaignApdb, open_apdb
from tololo.reduction.association import associate_visit
from tololo.reduction.campaign import Campaign, create_apdb
from tololo.services import postgres
from tololo.services.home import Home

if TYPE_CHECKING:
    from tololo.services.postgres import PostgresInfo

OBJECTS = tuple(int(float(n)) for n in os.environ.get("OBJECTS", "1e3,1e5,1e6").split(","))
OVERLAP = 300
OVERLAPS = (300, 1000, 3000)
RUNS = 7


def main() -> int:
    """Measure, write the results, print them."""
    adopt_orphans()
    where, rows = machine(), []
    with scratch() as folder:
        home = Home(folder)
        server = postgres.start(home)
        try:
            for objects in OBJECTS:
                rows += measure(server, folder, Field(objects, OVERLAP), f"{objects} objects")
            for overlap in OVERLAPS:
                rows += measure(server, folder, Field(100_000, overlap), f"{overlap} on the detector")
        finally:
            postgres.stop(home)
    ours = {row.step: row.median_cpu_s for row in rows if row.side == "ours"}
    sizes = [ours[f"{objects} objects"] for objects in OBJECTS]
    growth = [ours[f"{overlap} on the detector"] for overlap in OVERLAPS]
    quality = {
        "cpu_of_the_largest_over_the_smallest_database": round(sizes[-1] / sizes[0], 2),
        "cpu_of_the_largest_over_the_smallest_overlap": round(growth[-1] / growth[0], 2),
        "largest_over_smallest_overlap": OVERLAPS[-1] / OVERLAPS[0],
        "runs": f"{RUNS} visits each; processor time of this process and of the server",
    }
    path = write("apdb", where, rows, ratios(rows), quality)
    print(table(rows, ratios(rows)), *(f"{key}: {value}" for key, value in quality.items()), path, sep="\n")
    return 0


def measure(server: PostgresInfo, folder: Path, field: Field, step: str) -> list[Row]:
    """Load a field, then associate visits and let the peer read what it would need for them."""
    name = f"bench_{field.objects}_{field.overlap}"
    config = folder / f"{name}.yaml"
    create_apdb(server.url("apdb", driver="psycopg2"), name, config, Campaign("DECam", name))
    apdb, stock = open_apdb(config), Apdb.from_uri(str(config))
    with server.connect("apdb") as connection:
        field.load(apdb, connection)
        ours = Row(step, "ours", "associate_visit: match, summarise, force (no pixels), store")
        peer = Row(step, "dax_apdb", "getDiaObjects, getDiaSources, getDiaForcedSources")
        for visit in range(HISTORY_VISITS + 1, HISTORY_VISITS + RUNS + 2):
            alone = timed(lambda visit=visit: read(stock, field, visit))
            together = timed(lambda visit=visit: associate(apdb, field, visit))
            if visit > HISTORY_VISITS + 1:  # the first warms caches
                peer.add(*alone)
                ours.add(*together)
        connection.execute(f'DROP SCHEMA "{name}" CASCADE')
    return [ours, peer]


def associate(apdb: CampaignApdb, field: Field, visit: int) -> None:
    """Associate and store a visit."""
    result = associate_visit(apdb, field.info(visit), field.sources(visit), field.forced)
    if result.already_stored or result.forced < len(field.on_detector):
        raise RuntimeError(f"This is no measurement: {result}")


def read(stock: Any, field: Field, visit: int) -> None:
    """Read what an association needs, through the calls that LSST's own makes."""
    info = field.info(visit)
    when = Time(info.midpoint, format="mjd", scale="tai")
    ids = stock.getDiaObjects(info.region)["diaObjectId"]
    stock.getDiaSources(info.region, ids, when)
    stock.getDiaForcedSources(info.region, ids, when)


def timed(action: Callable[[], None]) -> tuple[float, float]:
    """Return the processor time of this process and of the server, and the wall time."""
    before = time.process_time()
    _, server, wall = cost(action)
    return time.process_time() - before + server, wall


if __name__ == "__main__":
    sys.exit(main())

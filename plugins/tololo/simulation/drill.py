"""A drill: a small pipeline on a real repository, whose numbers are known and whose faults come on demand.

`make_drill_repository` makes the repository, `drill_request` says how to run the pipeline ``drill.yaml`` on
it, `wrong_numbers` compares what is there with what should be. Faults and the journal of executions are in
`tololo.simulation.drill_faults`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tololo.facility.run import RunRequest

if TYPE_CHECKING:
    from lsst.daf.butler import Butler

NIGHT = 20190401
FIRST_VISIT = 900001
INPUTS = "drill/numbers"
PARENT = f"{NIGHT}/drill"
PIPELINE = Path(__file__).with_name("drill.yaml")
SUBSETS = {
    "one": ("drillOne",),
    "detectors": ("drillOne", "drillTwo"),
    "all": ("drillOne", "drillTwo", "drillGather"),
}
PRODUCTS = {"drillOne": "drill_one", "drillTwo": "drill_two", "drillGather": "drill_sum"}
"""The dataset type that each task writes."""


def make_drill_repository(
    root: Path, detectors: int = 16, visits: int = 1, registry: str = "sqlite", namespace: str = ""
) -> None:
    """Make a repository with a number for each detector of each visit.

    Parameters
    ----------
    root : `pathlib.Path`
        Folder of the repository; it must not exist or be empty.
    detectors : `int`, optional
        How many of DECam's 62 science CCDs have a number, by ascending id.
    visits : `int`, optional
        Number of visits, all of the night `NIGHT`, numbered from `FIRST_VISIT`.
    registry : `str`, optional
        ``sqlite``, or the URL of a PostgreSQL database (``postgresql+psycopg2://...``).
    namespace : `str`, optional
        Schema in that database.

    Raises
    ------
    ValueError
        There are not as many detectors.
    """
    from lsst.daf.butler import Butler, Config

    config = Config()
    if registry != "sqlite":
        config["registry", "db"] = registry
        if namespace:
            config["registry", "namespace"] = namespace
    chosen = detector_ids(detectors)
    Butler.makeRepo(str(root), config)
    with Butler.from_config(str(root), writeable=True, run=INPUTS) as butler:
        _write_records(butler, range(FIRST_VISIT, FIRST_VISIT + visits), chosen)
        _write_numbers(butler, range(FIRST_VISIT, FIRST_VISIT + visits), chosen)


def detector_ids(count: int) -> list[int]:
    """Return the ids of the first detectors of the camera.

    Raises
    ------
    ValueError
        There are not as many.
    """
    from tololo.reduction.instrument.detectors import detectors

    known = sorted(detectors())
    if not 0 < count <= len(known):
        raise ValueError(f"DECam has {len(known)} science detectors, not {count}")
    return known[:count]


def drill_request(
    repository: Path,
    subset: str = "one",
    faults: Path | None = None,
    journal: Path | None = None,
    **changes: Any,
) -> RunRequest:
    """Say how to run the drill, or a part of it.

    Parameters
    ----------
    repository : `pathlib.Path`
        What `make_drill_repository` made.
    subset : `str`, optional
        ``one`` (16 independent quanta for 16 detectors), ``detectors`` (two for each detector) or ``all``
        (and one for each visit).
    faults : `pathlib.Path`, optional
        File of `~tololo.simulation.drill_faults.write_faults`.
    journal : `pathlib.Path`, optional
        File in which each execution is noted.
    **changes
        Other fields of the request, such as ``site`` or ``where``.
    """
    files = {"faults": faults, "journal": journal}
    request = RunRequest(
        repository=str(repository),
        pipeline=f"{PIPELINE}#{subset}",
        parent=PARENT,
        step=subset,
        inputs=[INPUTS],
        where=f"instrument = 'DECam' AND visit.day_obs = {NIGHT}",
        config={
            f"{label}:{name}": str(path.absolute())
            for label in SUBSETS[subset]
            for name, path in files.items()
            if path is not None
        },
    )
    return replace(request, **changes)


def truth(repository: Path, subset: str = "all") -> dict[tuple[str, int, int], int]:
    """Return what each quantum of a drill without faults writes.

    Parameters
    ----------
    repository : `pathlib.Path`
        What `make_drill_repository` made.
    subset : `str`, optional
        As for `drill_request`.

    Returns
    -------
    numbers : `dict` [`tuple` [`str`, `int`, `int`], `int`]
        By task label, visit and detector, which is -1 for a quantum of the whole visit.
    """
    from lsst.daf.butler import Butler

    with Butler.from_config(str(repository)) as butler:
        refs = butler.query_datasets("drill_number", INPUTS, limit=None)
    quanta = sorted((int(ref.dataId["visit"]), int(ref.dataId["detector"])) for ref in refs)
    numbers = {("drillOne", *quantum): _number(*quantum) + 1 for quantum in quanta}
    numbers |= {("drillTwo", *quantum): 2 * (_number(*quantum) + 1) for quantum in quanta}
    for visit, detector in quanta:
        key = ("drillGather", visit, -1)
        numbers[key] = numbers.get(key, 0) + numbers["drillTwo", visit, detector]
    return {key: number for key, number in numbers.items() if key[0] in SUBSETS[subset]}


def made(repository: Path, collections: str = PARENT) -> dict[tuple[str, int, int], list[int]]:
    """Return the numbers that runs wrote, in the form of `truth`; more than one where a dataset is doubled.

    Parameters
    ----------
    repository : `pathlib.Path`
        The repository.
    collections : `str`, optional
        Where to look, also a glob: in the drill's chain unless given.
    """
    from lsst.daf.butler import Butler, MissingCollectionError

    numbers: dict[tuple[str, int, int], list[int]] = {}
    with Butler.from_config(str(repository)) as butler:
        try:
            there = butler.collections.query(collections)
        except MissingCollectionError:  # nothing has run yet
            return numbers
        known = {kind.name for kind in butler.registry.queryDatasetTypes()}
        for label, kind in PRODUCTS.items():
            if kind not in known:
                continue
            for ref in set(butler.registry.queryDatasets(kind, collections=there)):
                key = label, int(ref.dataId["visit"]), int(ref.dataId.get("detector", -1))
                numbers.setdefault(key, []).append(int(butler.get(ref)["number"]))
    return numbers


def wrong_numbers(repository: Path, subset: str = "all", collections: str = PARENT) -> list[str]:
    """Compare what is in a repository with the truth.

    Returns
    -------
    wrong : `list` [`str`]
        One line for each dataset that is missing, doubled, wrong or not asked for; none if all is well.
    """
    expected, found = truth(repository, subset), made(repository, collections)
    return [
        f"{label} of visit {visit}, detector {detector}: expected {wanted}, found {numbers or 'nothing'}"
        for label, visit, detector in sorted(expected.keys() | found.keys())
        for wanted, numbers in [
            (expected.get((label, visit, detector)), found.get((label, visit, detector), []))
        ]
        if numbers != [wanted]
    ]


def _number(visit: int, detector: int) -> int:
    return 1000 * (visit - FIRST_VISIT) + detector


def _write_records(butler: Butler, visits: range, detectors: list[int]) -> None:
    from tololo.reduction.instrument import DarkEnergyCamera
    from tololo.reduction.instrument.detectors import INSTRUMENT
    from tololo.reduction.instrument.filters import FILTERS

    DarkEnergyCamera().register(butler.registry)
    butler.registry.insertDimensionData("day_obs", {"instrument": INSTRUMENT, "id": NIGHT})
    butler.registry.insertDimensionData(
        "visit",
        *(
            {
                "instrument": INSTRUMENT,
                "id": visit,
                "name": str(visit),
                "physical_filter": FILTERS[0].physical_filter,
                "day_obs": NIGHT,
            }
            for visit in visits
        ),
    )
    # The builder of quantum graphs wants a row for each, though nobody asks where on the sky they are.
    butler.registry.insertDimensionData(
        "visit_detector_region",
        *(
            {"instrument": INSTRUMENT, "visit": visit, "detector": detector}
            for visit in visits
            for detector in detectors
        ),
    )


def _write_numbers(butler: Butler, visits: range, detectors: list[int]) -> None:
    from lsst.daf.butler import DatasetType

    from tololo.reduction.instrument.detectors import INSTRUMENT

    kind = DatasetType(
        "drill_number", ("instrument", "visit", "detector"), "StructuredDataDict", universe=butler.dimensions
    )
    butler.registry.registerDatasetType(kind)
    with butler.transaction():
        for visit in visits:
            for detector in detectors:
                data_id = {"instrument": INSTRUMENT, "visit": visit, "detector": detector}
                butler.put({"number": _number(visit, detector)}, kind, data_id)

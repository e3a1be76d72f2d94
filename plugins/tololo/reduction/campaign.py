"""Creation of the APDB of a campaign, and the record of what it was made for."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import sqlalchemy

from tololo.facility.errors import BadInputError
from tololo.reduction.apdb import LOCK_SECONDS, CampaignApdb
from tololo.reduction.apdb_config import reachable, read_config, sql_config, where_is
from tololo.reduction.apdb_schema import add_indexes, extended_schema
from tololo.reduction.ledger import Ledger, writer_lock

type Policy = Literal["use", "refuse", "reset"]
type TemplatePolicy = Literal["refuse", "use"]
type Outcome = Literal["created", "used", "reset"]

CREATED = "tololo:created"
VERSION = "tololo:template_version"
ACCEPTED = "tololo:template_versions_accepted"
"""Other versions of the template that an operator let in, separated by commas."""
_ROWS = ("DiaObject", "DiaSource", "DiaForcedSource")
_METADATA = "metadata"


@dataclass(frozen=True)
class Campaign:
    """What an APDB was made for; an APDB is used again only where these agree.

    Parameters
    ----------
    instrument : `str`
    name : `str`
        ``{coadd_subset}_{template_type}`` unless the operator names it.
    template : `str`, optional
        Collection of the template.
    template_version : `str`, optional
    """

    instrument: str
    name: str
    template: str = ""
    template_version: str = ""

    def records(self) -> dict[str, str]:
        """Return the metadata of the APDB, by key; ``instrument`` is the key that LSST's tools know."""
        records = {
            "instrument": self.instrument,
            "tololo:campaign": self.name,
            "tololo:template": self.template,
            VERSION: self.template_version,
        }
        return {key: value for key, value in records.items() if value}


def create_apdb(
    db_url: str,
    namespace: str | None,
    config_path: Path,
    campaign: Campaign,
    policy: Policy = "use",
    template_policy: TemplatePolicy = "refuse",
) -> Outcome:
    """Make an APDB as ``apdb-cli create-sql`` and ``apdb-cli metadata set`` do, and write its configuration.

    A creation that was killed is completed by the next call, whatever the policy.

    Parameters
    ----------
    db_url : `str`
        SQLAlchemy URL with its driver and without a password; a SQLite file is made if it is not there.
    namespace : `str` or `None`
        Schema of PostgreSQL that holds the tables.
    config_path : `pathlib.Path`
        YAML file, in the form that ``Apdb.from_uri`` reads; left alone where it names this APDB already.
    campaign : `Campaign`
    policy : `str`, optional
        What becomes of an existing APDB: ``use`` it if it was made for this campaign, ``refuse``, or
        ``reset`` (all its rows are lost).
    template_policy : `str`, optional
        What becomes of an existing APDB that was made for another version of the template: ``refuse`` it, or
        ``use`` it and record this version beside the other.

    Returns
    -------
    outcome : `str`
        ``created``, ``used`` or ``reset``.

    Raises
    ------
    BadInputError
        If the existing APDB is refused, was made for something else, or is of another schema version.
    UnavailableError
        If the database does not answer.
    """
    config = sql_config(db_url, namespace)
    where = f"APDB {campaign.name}, {where_is(config)}"
    if db_url.startswith("sqlite"):
        Path(where_is(config)).parent.mkdir(parents=True, exist_ok=True)
    engine = CampaignApdb._makeEngine(config, create=True)
    with reachable(where), writer_lock(engine, namespace, LOCK_SECONDS):
        state = _state(engine, namespace, keep_rows=policy != "reset", where=where)
        outcome: Outcome = "created"
        if state == "complete":
            outcome = "reset" if policy == "reset" else "used"
        if outcome == "reset":
            # The record of what is done goes first: killed after this, no row passes for stored that is not.
            Ledger(engine, namespace).drop()
        if outcome != "used":
            with extended_schema() as schema_file:
                CampaignApdb.init_database(
                    db_url, schema_file=schema_file, namespace=namespace, drop=state != "absent"
                )
        add_indexes(engine, namespace)
        config.db_url = CampaignApdb._update_sqlite_url(db_url)
        apdb = CampaignApdb(config)
        finished = apdb.metadata.get(CREATED) is not None or not apdb.is_empty()
        if policy == "refuse" and finished:
            raise BadInputError("The APDB exists", where, "choose another name, or policy use or reset")
        _record(apdb, campaign, where, config_path, template_policy)
        _write_config(config, config_path)
    return outcome


def _state(
    engine: sqlalchemy.Engine, namespace: str | None, *, keep_rows: bool, where: str
) -> Literal["absent", "half", "complete"]:
    """Tell how far the creation of an APDB got; dax_apdb writes its frozen configuration last."""
    tables = set(sqlalchemy.inspect(engine).get_table_names(namespace))
    present = [name for name in (*_ROWS, _METADATA) if name in tables]
    if not present:
        return "absent"
    space = sqlalchemy.MetaData(schema=namespace)
    reflected = {name: sqlalchemy.Table(name, space, autoload_with=engine) for name in present}
    with engine.begin() as connection:
        if len(present) == len(_ROWS) + 1:
            key = reflected[_METADATA].c.name == CampaignApdb.metadataConfigKey
            if connection.execute(sqlalchemy.select(reflected[_METADATA]).where(key)).first() is not None:
                return "complete"
        for name in set(present) - {_METADATA} if keep_rows else ():
            if connection.execute(sqlalchemy.select(reflected[name]).limit(1)).first() is not None:
                what = f"This is no complete APDB, but its table {name} has rows"
                raise BadInputError(what, where, "name another APDB, or reset this one")
    return "half"


def _record(
    apdb: CampaignApdb, campaign: Campaign, where: str, config_path: Path, template_policy: TemplatePolicy
) -> None:
    empty = apdb.is_empty()
    for key, wanted in campaign.records().items():
        known = apdb.metadata.get(key)
        if known is None and not empty:
            raise BadInputError(
                f"The APDB has rows, but no record of its {key}",
                where,
                f"if it is {wanted}, say so: apdb-cli metadata set {config_path} {key} {wanted};"
                " else name another APDB",
            )
        if key == VERSION and known not in (None, wanted):
            _accept_version(apdb, str(known), wanted, where, template_policy)
        elif known is not None and known != wanted:
            what = f"The APDB was made for {key} {known}, not {wanted}"
            raise BadInputError(what, where, "name another APDB, or reset this one")
        if known is None:
            apdb.metadata.set(key, wanted, force=True)
    if apdb.metadata.get(CREATED) is None:
        apdb.metadata.set(CREATED, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), force=True)


def _accept_version(
    apdb: CampaignApdb, known: str, wanted: str, where: str, template_policy: TemplatePolicy
) -> None:
    """Let another version of the template in, once and for all, if that is the policy."""
    accepted = [version for version in (apdb.metadata.get(ACCEPTED) or "").split(",") if version]
    if wanted in accepted:
        return
    if template_policy == "refuse":
        raise BadInputError(
            f"The APDB was made for {VERSION} {known}, not {wanted}: a change of template looks like news",
            where,
            "name another APDB, reset this one, or set apdb_templates to use it all the same",
        )
    apdb.metadata.set(ACCEPTED, ",".join([*accepted, wanted]), force=True)


def _write_config(config: Any, path: Path) -> None:
    if path.exists():
        try:
            known = read_config(path)
        except BadInputError:
            known = None
        places = [(getattr(c, "db_url", ""), getattr(c, "namespace", "")) for c in (known, config)]
        if places[0] == places[1]:
            return
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    config.save(str(beside))
    os.replace(beside, path)


def ping(db_url: str) -> str:
    """Return the version that a database server answers with.

    Raises
    ------
    UnavailableError
        If it does not answer.
    """
    config = sql_config(db_url, None)
    with reachable(where_is(config)), CampaignApdb._makeEngine(config, create=False).connect() as connection:
        version = sqlalchemy.select(sqlalchemy.func.version())
        return str(connection.execute(version).scalar_one())

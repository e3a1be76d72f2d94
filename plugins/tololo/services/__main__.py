"""``python -m tololo.services up | stop | status | clean | demo``: what the make commands call."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from tololo.facility.errors import TololoError
from tololo.services import facility
from tololo.services.home import Home


def main(argv: Sequence[str]) -> int:
    """Run one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tololo.services", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start PostgreSQL, Airflow and the TOM; print addresses and logins")
    commands.add_parser("stop", help="stop them")
    commands.add_parser("status", help="say what runs; status 1 if something does not")
    commands.add_parser("clean", help="stop them and remove the facility's state")
    commands.add_parser("demo", help="the whole chain, from an empty repository to a TOM", add_help=False)
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "demo":
        parser.error(f"{arguments.command} takes no arguments: {' '.join(rest)}")
    try:
        if arguments.command == "demo":
            from tololo.services import demo

            return demo.main(rest)
        return {"up": _up, "stop": _stop, "status": _status, "clean": _clean}[arguments.command](
            Home.from_environment()
        )
    except TololoError as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{arguments.command}: interrupted; run it again, or `make stop`", file=sys.stderr)
        return 130


def _up(home: Home) -> int:
    began = time.monotonic()
    print("Starting PostgreSQL, Airflow and the TOM ...", flush=True)
    running = facility.up(home)
    web, tom, server = running.airflow, running.tom, running.postgres
    print(
        f"Ready after {time.monotonic() - began:.0f} s. `make stop` stops it all.\n"
        f"  Airflow     {web.url}  user {web.user}  password {web.password}\n"
        f"  TOM         {tom.url}  user {tom.user}  password {tom.password}\n"
        f"  PostgreSQL  {server.host}:{server.port}  user {server.user}  password in {server.passfile}\n"
        f"  Logs        {home.logs}"
    )
    return 0


def _stop(home: Home) -> int:
    stopped = facility.down(home)
    print(f"Stopped: {', '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


def _status(home: Home) -> int:
    states = facility.status(home)
    for name, runs in states.items():
        print(f"{name:24} {'running' if runs else 'stopped'}")
    return 0 if all(states.values()) else 1


def _clean(home: Home) -> int:
    if not home.root.exists():
        print(f"Nothing to remove: {home.root} is not there.")
        return 0
    home.check_is_ours()
    _stop(home)
    home.remove()
    print(f"Removed {home.root}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

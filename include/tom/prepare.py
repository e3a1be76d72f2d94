"""Make the TOM's project and its database, or bring them up to date. Runs in the TOM's own environment.

Settings are TOM Toolkit's own template as its `tom_setup` command fills it, changed only by `local_settings`.
Reads ``TOM_HOME``, ``TOM_SECRET_KEY``, ``TOM_USER``, ``TOM_PASSWORD``, ``TOM_TOKEN``, ``TOM_GROUP`` and
``TOM_TARGET`` (JSON: name, ra, dec). Can be killed and run again.
"""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path


def write_settings(home: Path) -> None:
    """Fill TOM Toolkit's template of a project's settings."""
    from django.template import Context, Engine

    package = find_spec("tom_setup").submodule_search_locations[0]
    template = Path(package, "templates", "tom_setup", "settings.tmpl").read_text()
    values = {
        "PROJECT_NAME": "Tololo",
        "CUSTOM_CODE_APP_NAME": "tom_common",
        "SECRET_KEY": "set in local_settings",
        "TARGET_TYPE": "SIDEREAL",
        "HINTS_ENABLED": "False",
    }
    beside = home / "tom_settings.py.new"
    beside.write_text(Engine().from_string(template).render(Context(values, autoescape=False)))
    os.replace(beside, home / "tom_settings.py")


def fill_database() -> None:
    """Apply the migrations and make the user, the group and the target, whatever of them is missing."""
    import django

    django.setup()

    from django.contrib.auth.models import Group, User
    from django.core.management import call_command
    from django.db import transaction
    from guardian.shortcuts import assign_perm
    from rest_framework.authtoken.models import Token
    from tom_targets.models import Target

    call_command("migrate", interactive=False)
    with transaction.atomic():
        user, _ = User.objects.get_or_create(username=os.environ["TOM_USER"])
        user.set_password(os.environ["TOM_PASSWORD"])
        user.save()
        group, _ = Group.objects.get_or_create(name=os.environ["TOM_GROUP"])
        user.groups.add(group)
        Token.objects.filter(user=user).exclude(key=os.environ["TOM_TOKEN"]).delete()
        Token.objects.get_or_create(user=user, key=os.environ["TOM_TOKEN"])
        target = json.loads(os.environ["TOM_TARGET"])
        demo, _ = Target.objects.get_or_create(
            name=target["name"], defaults={"type": "SIDEREAL", "ra": target["ra"], "dec": target["dec"]}
        )
        for action in ("view", "change", "delete"):
            assign_perm(f"tom_targets.{action}_target", group, demo)


if __name__ == "__main__":
    home = Path(os.environ["TOM_HOME"])
    for folder in ("data", "cache"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    write_settings(home)
    fill_database()

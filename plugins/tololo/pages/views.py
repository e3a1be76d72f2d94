"""Where Airflow's web UI shows the pages, and the application behind them.

Every process that knows plugins imports this, tasks too, so the application (which needs seconds to import)
is loaded by its first request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

PREFIX = "/tololo"
"""Address of the pages on Airflow's web server."""

Message = MutableMapping[str, Any]


async def application(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Pass a request on to the application (an ASGI application itself)."""
    from tololo.pages.app import app

    await app(scope, receive, send)


APPS: list[dict[str, Any]] = [{"app": application, "url_prefix": PREFIX, "name": "Tololo"}]

# Relative to the address of the web UI, which a proxy may put below a path.
VIEWS: list[dict[str, Any]] = [
    {
        "name": "Night board",
        "destination": "nav",
        "href": f"{PREFIX[1:]}/nights",
        "url_route": "nights",
        "icon": f"{PREFIX[1:]}/static/nights.svg",
        "icon_dark_mode": f"{PREFIX[1:]}/static/nights-dark.svg",
        "nav_top_level": True,
    },
    {
        "name": "Candidates",
        "destination": "nav",
        "href": f"{PREFIX[1:]}/candidates",
        "url_route": "candidates",
        "icon": f"{PREFIX[1:]}/static/candidates.svg",
        "icon_dark_mode": f"{PREFIX[1:]}/static/candidates-dark.svg",
        "nav_top_level": True,
    },
    {
        "name": "Recovery",
        "destination": "nav",
        "href": f"{PREFIX[1:]}/recovery",
        "url_route": "recovery",
        "icon": f"{PREFIX[1:]}/static/recovery.svg",
        "icon_dark_mode": f"{PREFIX[1:]}/static/recovery-dark.svg",
        "nav_top_level": True,
    },
    {
        "name": "Scorecard",
        "destination": "dag_run",
        "href": f"{PREFIX[1:]}/runs/{{DAG_ID}}/{{RUN_ID}}/scorecard",
        "url_route": "scorecard",
    },
    {
        "name": "Template",
        "destination": "dag_run",
        "href": f"{PREFIX[1:]}/runs/{{DAG_ID}}/{{RUN_ID}}/template",
        "url_route": "template",
    },
    {
        "name": "Light curves",
        "destination": "dag_run",
        "href": f"{PREFIX[1:]}/runs/{{DAG_ID}}/{{RUN_ID}}/datasets",
        "url_route": "light_curves",
    },
]

"""Airflow's pools, through its REST API: a task has no other way to them."""

from __future__ import annotations

from typing import Any

import requests
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException
from requests.auth import AuthBase

from tololo.facility.errors import BadInputError
from tololo.hooks.rest import RestService, address


class PoolHook(BaseHook):
    """The pools of an Airflow.

    Parameters
    ----------
    conn_id : `str`, optional
        Connection of type ``http``: the address of the api-server, and a login that may change pools, or a
        token as the password.
    """

    def __init__(self, conn_id: str = "airflow_api") -> None:
        super().__init__()
        self.conn_id = conn_id

    def set_slots(self, name: str, slots: int, description: str) -> bool:
        """Give a pool so many slots, in whichever run its tasks are; it is made where there is none.

        Returns
        -------
        done : `bool`
            `False` if there is no such connection: pools are then left to the facility's engineer.

        Raises
        ------
        BadInputError
            Airflow refuses.
        UnavailableError
            It does not answer.
        """
        try:
            connection = self.get_connection(self.conn_id)
        except AirflowNotFoundException:
            return False
        where = f"connection {self.conn_id}"
        if not connection.host or not connection.password:
            raise BadInputError("It has no address or no password", where, "set host and password")
        url = address(connection.host, connection.port, connection.schema)
        token, secret = connection.password, connection.password
        if connection.login:
            # The login goes in the body; nothing else is asked without a token.
            login = {"username": connection.login, "password": secret}
            answer = self._service(url, None, secret).call("POST", "/auth/token", json=login)
            token = str(answer.json()["access_token"]) if answer is not None else ""
        service = self._service(url, _Bearer(token), secret)
        pool = {"slots": slots, "description": description, "include_deferred": False}
        found = service.call("GET", f"/api/v2/pools/{name}", allow=(404,))
        if found is None or found.status_code == 404:
            # Another may have made it in this moment.
            made = service.call("POST", "/api/v2/pools", json={"name": name, **pool}, allow=(409,))
            if made is not None and made.status_code != 409:
                return True
        elif found.json()["slots"] == slots:
            return True
        # Airflow wants a whole pool and takes what the mask names.
        body = {"pool": name, **pool}
        service.call("PATCH", f"/api/v2/pools/{name}", params={"update_mask": "slots"}, json=body)
        return True

    def _service(self, url: str, auth: AuthBase | None, secret: str) -> RestService:
        remedy = f"correct the connection {self.conn_id}; its user must be allowed to change pools"
        options: dict[str, Any] = {"timeout": (5.0, 30.0), "attempts": 4, "backoff": 1.0, "log": self.log}
        return RestService("Airflow", url, auth or _Bearer(""), secret, remedy, **options)


class _Bearer(AuthBase):
    """A token, where there is one."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request

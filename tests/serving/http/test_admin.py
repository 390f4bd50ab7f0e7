"""The kill switch before the first load: the answer says that the server is not ready."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from arm_cases import always, written
from fastapi import FastAPI
from fastapi.routing import APIRoute
from served import ADMIN_KEY
from starlette.requests import Request

from unimixer.serving.arms import Experiments
from unimixer.serving.engine import Engine
from unimixer.serving.errors import HTTPError
from unimixer.serving.http.admin import add_routes
from unimixer.serving.metrics import Metrics
from unimixer.serving.settings import ServeSettings


def test_an_experiment_cannot_be_stopped_before_it_is_known(tmp_path: Path) -> None:
    file = written(tmp_path, always())
    settings = ServeSettings.model_validate(
        {"bundle": "b", "store": "s", "experiments": (file,), "events": "sqlite:///e", "admin_key": ADMIN_KEY}
    )
    unused: Any = None
    engine, app = Engine(settings, unused, unused, Metrics(), Experiments((file,))), FastAPI()
    add_routes(app, engine)
    route = next(one for one in app.routes if isinstance(one, APIRoute) and one.path == "/admin/stop-experiment")
    request = Request({"type": "http", "headers": [(b"x-api-key", ADMIN_KEY.encode())]})
    with pytest.raises(HTTPError, match="the server is not ready") as found:
        asyncio.run(route.endpoint(request))
    assert found.value.status == 503
    engine.close()

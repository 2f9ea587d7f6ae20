"""GET /v1/state and /v1/health: how the device is."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import APIRouter, Response

from fl_client.home import DeviceHome
from fl_client.outlet.feed import Feed
from fl_client.reports import read_report


def routes(home: DeviceHome, feed: Feed) -> APIRouter:
    """The routes over the reports in `home` and the latest messages of `feed`."""
    router = APIRouter()

    @router.get("/state")
    async def state() -> dict[str, object]:
        listener = read_report(home.listener_status)
        return {
            "fedaudio": version("fedaudio"),
            "listening": listener is not None,
            "listener": listener,
            "link": read_report(home.link_status),
            "outlet": read_report(home.outlet_status),
            "level": feed.latest.of("level"),
            "event": feed.latest.of("event"),
            "tasks": feed.latest.of_further_tasks(listener),
        }

    @router.get("/health")
    async def health(response: Response) -> dict[str, bool]:
        listening = read_report(home.listener_status) is not None
        response.status_code = 200 if listening else 503
        return {"listening": listening}

    return router

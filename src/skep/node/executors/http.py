"""`http` tasks: one request for an attempt, on the node's loop.

The client is httpx2: it does TLS, proxies, compressed answers and reused connections, needs no threads, and a cancelled request
is a closed connection. Nothing of it is loaded before the first request (45 ms and 10 MB), and then in a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from skep.model.node import ErrorInfo
from skep.node.attempt import Attempt, Host
from skep.node.functions import error_info
from skep.node.secrets import Failed, Mask, fill_secrets

if TYPE_CHECKING:
    import ssl

    from skep.node.executors.client import Client

STOPPED: Final = ErrorInfo("Cancelled", "stopped")


class HttpExecutor:
    """Makes requests. `secrets` are the node's own, by name; `trust`: whose certificates to take, else those of the system."""

    name = "http"

    def __init__(self, secrets: Mapping[str, str] | None = None, trust: ssl.SSLContext | None = None) -> None:
        self._secrets = secrets or {}
        self._trust = trust
        self._host: Host
        self._tasks: set[asyncio.Task[None]] = set()
        self._opening: asyncio.Task[Client] | None = None

    async def open(self, host: Host) -> None:
        self._host = host

    async def close(self) -> None:
        if tasks := tuple(self._tasks):
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        if self._opening is not None:
            opening, self._opening = self._opening, None
            await (await opening).close()

    def start(self, attempt: Attempt) -> None:
        task = asyncio.get_running_loop().create_task(self._run(attempt), name=attempt.grant.name)
        attempt.work = task
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: attempt.fail(STOPPED))  # if it has not ended otherwise

    def stop(self, attempt: Attempt) -> None:
        if isinstance(attempt.work, asyncio.Task):
            attempt.work.cancel()

    async def _run(self, attempt: Attempt) -> None:
        mask = Mask()
        try:
            call, mask = fill_secrets(attempt.call, self._secrets)
            if not isinstance(call.call, dict):
                raise Failed(ErrorInfo("Request", "the task holds no request"))
            client = await self._client()
            done = await client.exchange(call.call, _private(attempt))
        except Failed as failed:
            attempt.fail(mask.info(failed.info))
            return
        except Exception as error:  # noqa: BLE001  whatever goes wrong is the attempt's failure
            attempt.fail(mask.info(error_info(error)))
            return
        self._host.write_log(attempt, "log", f"skep: {mask.text(done.line)}\n".encode(errors="replace"))
        if done.error is None:
            attempt.succeed(mask.json(done.output))
        else:
            attempt.fail(mask.info(done.error), done.delay_ms)

    async def _client(self) -> Client:
        if self._opening is None:
            self._opening = asyncio.create_task(asyncio.to_thread(_open_client, self._trust))
        return await asyncio.shield(self._opening)


def _open_client(trust: ssl.SSLContext | None) -> Client:
    client: Client = import_module("skep.node.executors.client").Client(trust)
    return client


def _private(attempt: Attempt) -> frozenset[str]:
    """The headers in which a secret stands, in small letters."""
    call = attempt.call
    headers: Any = call.call.get("headers") if call.needs_secrets and isinstance(call.call, dict) else None
    return frozenset(name.lower() for name, value in (headers or {}).items() if "${{" in str(value))

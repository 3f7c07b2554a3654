"""The client: the hub's nouns over HTTP, to a server on a Unix socket. It blocks.

    client = Client()                       # the server of the usual data directory
    client.submit(report, urls=[…]).result(timeout="5m")
    client.runs.list(Filter(state=["failed"]))

What a server refuses is raised as the error of `skep.errors` that it is; a server that is not there as UnreachableError. Calls
that change something carry an id made here, so that one which got no answer is repeated safely.
"""

from skep.client.client import Client, Handle
from skep.client.runs import Filter, Told
from skep.client.wire import API, PROTOCOL, WAIT_S, Refusal, UnreachableError

__all__ = ["API", "PROTOCOL", "WAIT_S", "Client", "Filter", "Handle", "Refusal", "Told", "UnreachableError"]

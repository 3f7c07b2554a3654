"""The client: the hub's nouns over HTTP, to a server on a Unix socket or at a URL. It blocks.

    client = Client()                       # the server of SKEP_URL, else that of the usual data directory
    client = Client(url="https://skep.example:7420", token="skep_…")
    client.submit(report, urls=[…]).result(timeout="5m")
    client.runs.list(Filter(state=["failed"]))

What a server refuses is raised as the error of `skep.errors` that it is; a server that is not there as UnreachableError. Calls
that change something carry an id made here, so that one which got no answer is repeated safely.
"""

from skep.client.client import Client, Handle
from skep.client.reach import Reach, UnreachableError
from skep.client.runs import Filter, Told
from skep.client.wire import API, PROTOCOL, WAIT_S, Refusal

__all__ = ["API", "PROTOCOL", "WAIT_S", "Client", "Filter", "Handle", "Reach", "Refusal", "Told", "UnreachableError"]

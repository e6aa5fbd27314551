"""HTTP requests on behalf of workflows, whose URLs may come from data.

httpx2 parses URLs, and its core speaks the protocol; both are imported at the first request only. The sockets
are our own, because what matters happens there: which address is dialled, and when a call has to end.

- `sockets`: names resolved, addresses checked and dialled, reads that end in time
- `exchange`: one connection pool per process, a request and its redirects, a body that is bounded
- `failure`: why a request has failed
"""

"""A shop on a bad day: executions of every kind, for pages that show them."""

from __future__ import annotations

from support.polling import poll
from workflow_engine import ExecutionStatus, WorkflowBuilder, WorkflowClient

SHAPES = (
    "<script>document.title='owned {n}'</script>",
    '"><img src=x onerror="document.title=\'owned {n}\'">',
    "' onmouseover='document.title=1' x='{n}",
    "</pre></details></svg><h1>broken {n}</h1>",
    "</title><style>body{{display:none}}</style>{n}",
    "<!-- {n}",
    "]]><svg/onload=document.title={n}>",
    "javascript:document.title={n}",
    "\u202e\u2066{n}\u200b",
    "&lt;b&gt;{n}&amp;",
)


def hostile_texts() -> list[str]:
    """Return 200 texts that a page has to show and must never obey."""
    return [SHAPES[number % len(SHAPES)].format(n=number) for number in range(200)]


def have_a_bad_day(client: WorkflowClient) -> dict[str, str]:
    """Run executions until each is where it stays. Return their ids by what they are an example of."""
    ids: dict[str, str] = {}
    client.deploy(orders("Orders").build())
    client.deploy(orders("Order fulfilment").build())
    for flow in (labels(), films(), nightly(), hostile()):
        client.deploy(flow.build())

    texts = hostile_texts()
    data = {"texts": texts, **{text: number for number, text in enumerate(texts)}}
    ids["hostile"] = client.start("hostile", data, idempotency_key=texts[1]).id  # below all others in lists

    def order(name: str, key: str | None = None, card: str = "4000-0011") -> None:
        number = f"order-{len(ids)}"
        data = {"orderId": number, "items": 2, "card": card, "amount": 42.5}
        ids[name] = client.start("order", data, idempotency_key=key).id
        ids[f"event of {name}"] = number

    def pay(name: str) -> None:
        client.send_event(ids[f"event of {name}"], "paid", {"amount": 42.5})

    for number in range(4):
        order(f"completed {number}", f"web-{number}")
        pay(f"completed {number}")
    order("failed", card="4000-0013")
    pay("failed")
    order("waiting", "web-77")
    order("also waiting")
    order("paused")
    ids["labels"] = client.start("labels", {"items": ["a", "b", "broken", "c"]}).id
    ids["no worker"] = client.start("films").id

    def is_at_rest(name: str, status: ExecutionStatus) -> None:
        poll(lambda: client.get(ids[name]).status is status, f"{name} is {status}", timeout=60)

    for number in range(4):
        is_at_rest(f"completed {number}", ExecutionStatus.COMPLETED)
    for name in ("failed", "hostile", "labels"):
        is_at_rest(name, ExecutionStatus.FAILED)
    for name in ("waiting", "also waiting", "paused"):
        is_at_rest(name, ExecutionStatus.WAITING)
    client.control.pause(ids["paused"], reason="stocktaking until noon", actor="bob")
    return ids


def orders(name: str) -> WorkflowBuilder:
    """Return a workflow that branches, joins, waits for an event and retries."""
    flow = WorkflowBuilder("order", name=name, variables={"currency": "EUR"})
    schema = {
        "type": "object",
        "required": ["orderId", "card"],
        "properties": {
            "orderId": {"type": "string", "description": "as it stands on the invoice"},
            "items": {"type": "integer", "default": 1},
            "card": {"type": "string"},
            "amount": {"type": "number", "default": 10},
            "parcel": {"enum": ["small", "large"]},
            "notes": {"type": "array"},
        },
    }
    ordered = flow.trigger("ordered", schema=schema, label="Order placed")
    stock = flow.condition("inStock", expression="{{ ordered['items'] < 100 }}", label="All in stock?")
    reserve = flow.python(
        "reserve", "pages.reserve", arguments={"items": "{{ ordered['items'] }}"}, label="Reserve the goods"
    )
    backorder = flow.function("backorder", "{{ ordered.orderId }}", label="Order from the supplier")
    paid = flow.wait_events(
        "paid", ["paid"], correlation_id="{{ ordered.orderId }}", label="Wait for the money"
    )
    charge = flow.python(
        "charge",
        "pages.charge",
        arguments={"card": "{{ ordered.card }}", "amount": "{{ ordered.amount }}"},
        label="Charge the card",
        retry={"maxAttempts": 3, "waitDuration": 300},
    )
    ship = flow.function("ship", "{{ {'receipt': charge.receipt, 'to': ordered.orderId} }}", label="Ship it")
    done = flow.merge("done", strategy="first", label="Finished")
    ordered >> stock
    stock["true"] >> reserve >> paid >> charge >> ship >> done
    stock["false"] >> backorder >> done
    return flow


def labels() -> WorkflowBuilder:
    """Return a workflow whose children are the turns of a loop, one of which fails."""
    body = WorkflowBuilder("body")
    body.python("print", "pages.label", arguments={"item": "{{ item }}"})
    flow = WorkflowBuilder("labels", name="Print labels")
    items = flow.trigger("asked", label="Labels asked for")
    each = flow.loop("each", "{{ asked['items'] }}", body=body, label="Each label")
    items >> each >> flow.function("report", "{{ each }}", label="Report")
    return flow


def films() -> WorkflowBuilder:
    """Return a workflow that needs a queue without a worker."""
    flow = WorkflowBuilder("films", name="Render films")
    render = flow.python("render", "pages.render", queue="gpu", label="Render on a graphics card")
    flow.trigger("asked") >> render
    return flow


def nightly() -> WorkflowBuilder:
    """Return a workflow with a schedule."""
    flow = WorkflowBuilder("nightly", name="Nightly report")
    every = flow.trigger(
        "every", sub_type="scheduler", config={"cron": "0 3 * * *", "timezone": "Europe/Berlin"}
    )
    every >> flow.function("report", "done")
    return flow


def hostile() -> WorkflowBuilder:
    """Return a workflow whose name, labels and errors would harm a page that takes them for markup."""
    texts = hostile_texts()
    flow = WorkflowBuilder("hostile", name=texts[0], variables={"seen": texts}, settings={"hops": "inline"})
    last = flow.trigger("begun", label=texts[1])
    for number, text in enumerate(texts[:60]):
        label = text.replace("{{", "{ {").replace("{%", "{ %")
        last = last >> flow.function(f"node{number}", "{{ begun.texts[0] }}", label=label)
    message = "{{ begun.texts | join(' ') }}"
    last >> flow.fail("ended", type="Hostile", message=message, details={"all": "{{ begun.texts }}"})
    return flow

"""What schemathesis has to know of the shop that no document can say: what there is, and what is true of it just now.

A request is changed only where it is as described. What breaks the description is sent as it was made up.
"""
import itertools
import os
import uuid

import requests
import schemathesis
from schemathesis import GenerationMode
from schemathesis.generation.meta import TestPhase

SHOP = os.environ["SHOP"]
OPERATOR = {"X-Operator": "schemathesis"}
CARDS = ["pm_card_ok", "pm_card_declined", "pm_card_insufficient_funds", "pm_card_twice"]

calls, choices = itertools.count(), itertools.count()


def some(values):
    """One of them, another each time."""
    return values[next(choices) % len(values)]


def look(path):
    answer = requests.get(SHOP + path, headers=OPERATOR, timeout=45)
    answer.raise_for_status()
    return answer.json()


def products():
    """What there is, at its price of just now, but for what prices were made up for that nobody could pay."""
    return [product for product in look("/v1/products?page_size=100")["products"] if product["unit_price"] <= 10**6]


def order_under_way():
    """An order that waits for a slow card: its saga has not ended."""
    product = next(product for product in products() if product["available"] > 0)
    body = {
        "lines": [{"sku": product["sku"], "quantity": 1, "unit_price": product["unit_price"]}],
        "payment_method": "pm_card_slow",
        "shipping_address": {
            "recipient": "Kim", "street": "Jong-ro 1", "city": "Seoul", "postal_code": "03000", "country": "KR",
        },
    }
    answer = requests.post(SHOP + "/v1/orders", json=body, headers={"Idempotency-Key": uuid.uuid4().hex}, timeout=45)
    answer.raise_for_status()
    return answer.json()["order_id"]


# Nothing more happens to these: who watches another order waits for long.
ORDERS = [order["order_id"] for order in look("/v1/orders?page_size=100&status=ORDER_STATUS_DELIVERED")["orders"]]


def known(name, operation):
    """Something that a parameter of a path can name, or nothing."""
    acts = operation.method == "post"
    if name == "sku":
        # One is enough to make prices up for.
        return "TEST-KETTLE" if operation.path.endswith(":price") else some(products())["sku"]
    if name == "order_id":
        return order_under_way() if acts else some(ORDERS)
    if name == "saga_id":
        return "checkout-" + (order_under_way() if acts else some(ORDERS))
    kind = {"redrive": "late", "skip": "junk"}.get(operation.path.split(":")[-1], "")
    letters = look(operation.path.split("/{")[0] + "?page_size=100")["dead_letters"]
    letters = [letter["dead_letter_id"] for letter in letters if kind in letter["stream"]]
    return letters and some(letters)


def order_that_can_be(body):
    """The same order of goods that there are, each once and at its price, paid with a card that is known."""
    goods = products()
    del body["lines"][len(goods) :]
    for line, product in zip(body["lines"], goods):
        line.update(sku=product["sku"], unit_price=product["unit_price"])
    body["payment_method"] = some(CARDS)


@schemathesis.hook
def before_load_schema(context, schema):
    """A stream is a text to who reads the document, with the events as its content; schemathesis compares each event."""
    for operation in (operation for path in schema["paths"].values() for operation in path.values()):
        for answer in operation["responses"].values():
            stream = answer.get("content", {}).get("text/event-stream")
            if stream:
                stream["schema"] = stream["schema"]["contentSchema"]


@schemathesis.hook
def before_call(context, case, kwargs):
    parts = case.meta.components.items()
    broken = {location.value for location, part in parts if part.mode is GenerationMode.NEGATIVE}
    # Where there are many calls, every fourth is about what it was made up to be about, which mostly there is not.
    strays = case.meta.phase.name is TestPhase.FUZZING and next(calls) % 4 == 0
    # Who watches an order waits for its end.
    if "path" not in broken and (not strays or case.operation.path.endswith(":watch")):
        for name in case.path_parameters:
            case.path_parameters[name] = known(name, case.operation) or case.path_parameters[name]
    if "header" not in broken:
        if not strays:
            case.headers.pop("X-Customer-Id", None)  # `demo`, whose orders these are
        key = case.headers.get("Idempotency-Key", "")
        if 0 < len(key) < 60:
            case.headers["Idempotency-Key"] = f"{key}-{uuid.uuid4().hex}"
        if "Last-Event-ID" in case.headers:
            case.headers["Last-Event-ID"] = "1"
            if "query" in broken:
                del case.headers["Last-Event-ID"]  # with it, nobody looks at `after_version`
    if "query" not in broken:
        # Only the shop makes these up.
        case.query.pop("page_token", None)
        case.query.pop("seen", None)
        if "at_version" in case.query:
            case.query.pop("at_time", None)
        for name in ("at_version", "after_version"):
            if name in case.query:
                case.query[name] = 1
        if "query" in case.query and not any(letter.isalnum() for letter in case.query["query"]):
            case.query["query"] = "tea"
    if "body" not in broken and case.operation.label == "POST /v1/orders":
        order_that_can_be(case.body)
    if "body" not in broken and case.operation.path.endswith(":redrive"):
        case.body["over_gap"] = True  # there is nothing else to redrive

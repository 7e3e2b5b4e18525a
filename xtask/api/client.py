"""Shops with the client that was generated from /openapi.json, and sees that it is answered as the document says.

Usage: client.py URL, with the folder of the generated package `jangteo` in PYTHONPATH. It needs a shop that was just opened.
"""
import itertools
import sys

from jangteo import Client
from jangteo.api.dead_letter_service import list_inventory_dead_letters, list_order_dead_letters
from jangteo.api.dead_letter_service import list_shipping_dead_letters
from jangteo.api.inventory_service import add_product, change_price, get_product, list_products, receive_stock
from jangteo.api.order_service import cancel_order, get_order, list_order_events, list_orders, place_order, watch_order
from jangteo.api.saga_service import get_saga, list_sagas
from jangteo.models import AddProductRequest, Cancellation, ChangePriceRequest, OrderLineInput, OrderStatus
from jangteo.models import PlaceOrderRequest, Problem, ReceiveStockRequest, SagaPhase, ShippingAddressInput
from jangteo.types import UNSET

# An answer with a status that the document does not list is an exception.
SHOP = Client(base_url=sys.argv[1], raise_on_unexpected_status=True, timeout=45)
keys = (f"client-{n}" for n in itertools.count())


def ask(operation, *arguments, expect=200, **named):
    answer = operation.sync_detailed(*arguments, client=SHOP, **named)
    assert answer.status_code == expect, answer
    return answer.parsed


def buy(sku, quantity, unit_price, card="pm_card_ok", key=None, wait=10, expect=201):
    lines = [OrderLineInput(sku=sku, quantity=quantity, unit_price=unit_price)]
    address = ShippingAddressInput(
        recipient="Kim Jangteo", street="Sejong-daero 110", city="Seoul", postal_code="04524", country="KR"
    )
    body = PlaceOrderRequest(lines=lines, payment_method=card, shipping_address=address)
    prefer = f"wait={wait}" if wait else UNSET
    return ask(place_order, body=body, idempotency_key=key or next(keys), prefer=prefer, expect=expect)


def everything(operation, of, **named):
    """All pages of a list."""
    found, token = [], UNSET
    while token != "":
        page = ask(operation, page_size=30, page_token=token, **named)
        found, token = found + getattr(page, of), page.next_page_token
    return found


# An operator puts something new on the shelves.
new = AddProductRequest(
    sku="TEST-KETTLE", name_ko="시험 주전자", name_en="Test kettle", category="home", unit_price=30_000, currency="KRW"
)
operator = {"x_operator": "lee"}
added = ask(add_product, body=new, idempotency_key=next(keys), expect=201, **operator)
ask(receive_stock, "TEST-KETTLE", body=ReceiveStockRequest(quantity=10), idempotency_key=next(keys), **operator)
priced = ask(change_price, "TEST-KETTLE", body=ChangePriceRequest(25_000), idempotency_key=next(keys), **operator)
assert (priced.available, priced.unit_price, priced.version) == (10, 25_000, added.version + 1), priced

# A customer finds it, by looking through everything and by a search.
assert "TEST-KETTLE" in [product.sku for product in everything(list_products, "products")]
found = ask(list_products, query="주전자 kett", seen=f"TEST-KETTLE@{priced.version}")
assert [product.sku for product in found.products] == ["TEST-KETTLE"], found

# Buys it, says so twice, and sees what was bought.
order = buy("TEST-KETTLE", 2, 25_000, key="twice")
assert buy("TEST-KETTLE", 2, 25_000, key="twice").order_id == order.order_id
assert (order.status, order.total, order.shipping_address.city) == (OrderStatus.ORDER_STATUS_CONFIRMED, 50_000, "Seoul")
assert ask(get_order, order.order_id).lines[0].quantity == 2
assert ask(get_product, "TEST-KETTLE").available == 8
by_words = ask(list_orders, query="kettle seoul", seen=f"{order.order_id}@{order.version}")
assert [one.order_id for one in by_words.orders] == [order.order_id], by_words
others = [buy("TEA-BOSEONG-100", 1, 18_000, wait=0).order_id for _ in range(40)]
assert [one.order_id for one in everything(list_orders, "orders")] == [*reversed(others), order.order_id]

# Follows it to its end, and reads what happened.
followed = ask(watch_order, order.order_id)
happened = ["OrderPlaced", "OrderConfirmed", "OrderShipped", "OrderDelivered"]
assert [line[len("event: ") :] for line in followed.splitlines() if line.startswith("event: ")] == happened, followed
events = ask(list_order_events, order.order_id).events
assert [event.type_ for event in events] == happened and events[0].recorded_at <= events[1].recorded_at, events
assert events[0].actor == "customer:demo" and events[0].data["details"]["total"] == 50_000, events[0]
assert ask(get_order, order.order_id, at_version=1).status == OrderStatus.ORDER_STATUS_PLACED
assert ask(get_order, order.order_id, at_time=events[2].recorded_at).status == OrderStatus.ORDER_STATUS_SHIPPED

# Calls another off, which waits for a slow card.
hasty = buy("TEA-BOSEONG-100", 1, 18_000, card="pm_card_slow", wait=0)
open_sagas = [saga.order_id for saga in everything(list_sagas, "sagas", **operator)]
assert hasty.order_id in open_sagas, open_sagas
called_off = ask(cancel_order, hasty.order_id, idempotency_key=next(keys), prefer="wait=30", expect=202)
assert (called_off.status, called_off.cancellation) == (OrderStatus.ORDER_STATUS_CANCELLED, Cancellation.CANCELLATION_DONE)
assert ask(get_saga, f"checkout-{hasty.order_id}", **operator).phase == SagaPhase.SAGA_PHASE_COMPENSATED

# Is told what is wrong.
wrong = buy("TEST-KETTLE", 0, 25_000, expect=400)
assert isinstance(wrong, Problem) and wrong.field == "lines[0].quantity", wrong
stale = buy("TEST-KETTLE", 1, 30_000, expect=422)
assert (stale.reason, stale.facts["unit_price"]) == ("price_changed", "25000"), stale
declined = buy("TEST-KETTLE", 1, 25_000, card="pm_card_declined")
assert (declined.status, declined.rejection.reason) == (OrderStatus.ORDER_STATUS_REJECTED, "card_declined"), declined
assert ask(get_order, order.order_id, x_customer_id="somebody-else", expect=404).code == "NOT_FOUND"
for letters in [list_order_dead_letters, list_inventory_dead_letters, list_shipping_dead_letters]:
    assert everything(letters, "dead_letters", **operator) == []

# The last parcels arrive, so that whoever comes next finds a quiet shop.
for other in others:
    ask(watch_order, other)

"""Puts messages on the bus of a closed shop that nobody can take in, so that there are dead letters to look at.

No request can bring them about. Usage: dead_letters.py DATA_FOLDER
"""
import json
import sqlite3
import sys
import uuid

TOPICS = ["order-events", "shipping-events"]
OF_EACH = 100


def unreadable(stream):
    """Nothing but a key: an operator can only give it up."""
    return []


def out_of_turn(stream):
    """The second of its stream, whose first never came: an operator can have it taken in over the gap."""
    return [
        ("ce_specversion", "1.0"), ("ce_id", str(uuid.uuid4())), ("ce_source", "test"),
        ("ce_type", "shop.events.v1.Private"), ("ce_subject", stream), ("ce_time", "1800000000000000"),
        ("ce_streamversion", "2"), ("ce_schemaversion", "1"), ("ce_correlationid", stream), ("ce_causationid", "test"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ]


bus = sqlite3.connect(f"{sys.argv[1]}/bus.db")
for topic in TOPICS:
    last = "SELECT topic, partition, offset, key, headers, payload FROM messages WHERE topic = (SELECT key FROM topics"
    last = bus.execute(f"{last} WHERE name = ?) AND partition = 0 ORDER BY offset DESC LIMIT 1", (topic,)).fetchone()
    key, partition, end, *told = last
    messages = []
    for n in range(2 * OF_EACH):
        stream, headers = (f"order-{n:03}-late", out_of_turn) if n % 2 else (f"order-{n:03}-junk", unreadable)
        messages.append((stream, json.dumps(headers(stream)), b""))
    # When the shop opens, whoever publishes reads back what was last: that is the same as before.
    messages.append(told)
    for offset, message in enumerate(messages, end + 1):
        place = (key, partition, offset)
        bus.execute(
            "INSERT INTO messages (topic, partition, offset, key, headers, payload) VALUES (?, ?, ?, ?, ?, ?)",
            (*place, *message),
        )
bus.commit()
bus.close()

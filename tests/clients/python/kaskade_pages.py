"""A person before kaskade, a UI of Kafka in the terminal: each page is opened by its keys, and what it shows is printed as JSON,
{page: text}. The topics captured, readings and made are tests/integration/test_kaskade.py's.

    kaskade_pages.py BOOTSTRAP [PICTURE.svg]
"""

import asyncio
import html
import json
import re
import sys

from kaskade.admin import KaskadeAdmin
from kaskade.consumer import KaskadeConsumer
from kaskade.deserializers import Deserialization

SIZE = (130, 30)
SECONDS = 20
bootstrap = sys.argv[1]
shown = {}


def text(app):
    lines = {}
    for x, y, piece in re.findall(r'<text class="[^"]*" x="([\d.]+)" y="([\d.]+)"[^>]*>(.*?)</text>', app.export_screenshot()):
        lines.setdefault(float(y), []).append((float(x), html.unescape(piece).replace("\xa0", " ")))
    return "\n".join("".join(piece for _, piece in sorted(lines[y])) for y in sorted(lines))


async def until(pilot, page, pattern):
    """The page is there when it shows this."""
    now = ""
    for _ in range(SECONDS * 10):
        now = text(pilot.app)
        if re.search(pattern, now, re.S):
            shown[page] = now
            return
        await pilot.pause(0.1)
    sys.exit(f"{page}: no {pattern!r} in {SECONDS} s\n{now}")


async def keys(pilot, *pressed):
    for key in pressed:
        await pilot.press(*(key[1:] if key.startswith("'") else [key]))
        await pilot.pause()


async def opens(pilot, key, page, pattern):
    """A key that comes while the list is being refreshed is lost."""
    for _ in range(SECONDS):
        if len(pilot.app.screen_stack) == 1:
            pilot.app.query_one("DataTable").focus()
            await keys(pilot, key)
        await pilot.pause(0.5)
        if len(pilot.app.screen_stack) > 1:
            break
    await until(pilot, page, pattern)


async def choose(pilot, topic):
    """Only this topic in the list, and the cursor on it."""
    await opens(pilot, "/", "filter", "Filter Topics")
    await keys(pilot, f"'{topic}", "enter")
    await until(pilot, f"only {topic}", rf"Topics.*\[1\].*\n│ {topic} ")


async def error(pilot, page, pattern):
    await until(pilot, page, pattern)
    pilot.app.clear_notifications()
    await pilot.pause()


async def admin():
    app = KaskadeAdmin({"bootstrap.servers": bootstrap}, 0)
    async with app.run_test(size=SIZE, notifications=True) as pilot:
        await until(pilot, "topics", r"│ captured +16 +1 +1 +1 +1 +≈40 .*│ readings +3 +1 +1 +1 +0 +≈30 ")
        await choose(pilot, "captured")
        await opens(pilot, "d", "partitions", "Topic Details.*Leader +Earliest")
        await keys(pilot, "l")
        await until(pilot, "configurations", "cleanup.policy")
        app.screen.query_one("#configurations-table").focus()
        await keys(pilot, "pagedown")
        await until(pilot, "configurations, paged", "mqtt.filter +demo/#")
        for page, pattern in (("groups", "dashboard +STABLE|dashboard"), ("group offsets", "Committed"),
                              ("group members", "Assignment|Client")):
            await keys(pilot, "l")
            await until(pilot, page, pattern)
        await keys(pilot, "escape")
        await opens(pilot, "e", "edit a captured one", r"Edit Topic.*\[captured\]")
        field = app.screen.query_one("#retention")
        field.value = "5000"
        await keys(pilot, "ctrl+s")
        await error(pilot, "edit a captured one, refused", "Error")
        await opens(pilot, "ctrl+d", "delete a captured one", "Delete Topic")
        await keys(pilot, "'captured", "enter")
        await error(pilot, "delete a captured one, refused", "Error")
        await keys(pilot, "escape")
        await opens(pilot, "n", "create", "Create Topic")
        app.screen.query_one("#name").value = "made"
        app.screen.query_one("#partitions").value = "2"
        await keys(pilot, "ctrl+s")
        await until(pilot, "created", r"Topic Created.*|│ made +2 ")
        await choose(pilot, "made")
        await opens(pilot, "e", "edit", r"Edit Topic.*\[made\]")
        app.screen.query_one("#retention").value = "5000"
        app.screen.query_one("#partitions").value = "4"
        await keys(pilot, "ctrl+s")
        await until(pilot, "edited", r"│ made +4 ")
        await opens(pilot, "d", "edited, described", r"\[made\].*Partitions \[4\]")
        await keys(pilot, "l")
        await until(pilot, "edited, configurations", "cleanup.policy")
        app.screen.query_one("#configurations-table").focus()
        await keys(pilot, "pagedown", "pagedown")
        await until(pilot, "edited, retention", "retention.ms")
        await keys(pilot, "escape")
        await opens(pilot, "ctrl+d", "delete", "Delete Topic")
        await keys(pilot, "'made", "enter")
        await until(pilot, "deleted", r"Topics.*\[0\]")


async def records(topic, pattern, headers, picture=None):
    app = KaskadeConsumer(topic, {"bootstrap.servers": bootstrap, "auto.offset.reset": "earliest"}, {}, {}, {},
                          Deserialization.STRING, Deserialization.STRING)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, f"records of {topic}", pattern)
        if picture:
            with open(picture, "w") as out:
                out.write(app.export_screenshot(title="kaskade"))
        await opens(pilot, "enter", f"a record of {topic}", "Record Details")
        app.screen.query_one("Tabs").focus()
        await keys(pilot, "right", "right")
        await until(pilot, f"a record of {topic}, headers", headers)


asyncio.run(admin())
asyncio.run(records("captured", r"demo/house/0.*\{", "mqtt.topic", *sys.argv[2:3]))
asyncio.run(records("readings", r"│ k\d +v\d", r"Headers \[0\]"))
print(json.dumps(shown))

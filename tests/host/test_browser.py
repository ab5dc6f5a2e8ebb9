"""The pack in ComfyUI's real front end: Playwright drives a Chromium. Screenshots go to out/screenshots.

The front end's own conversion is the source of truth for the API twins of the templates; with WRITE_TWINS=1 they are
written anew (`make twins`).
"""

import json
import os
import shutil

import pytest

from .server import PACK, ROOT

TEMPLATES = sorted((ROOT / "example_workflows").glob("*.json"))
SHOTS = ROOT / "out" / "screenshots"
NODES = "window.LiteGraph?.registered_node_types['DreamFactoryLoadDemo']"
# As root, without a screen, and without looking for anything on a network.
OPTIONS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright to test the browser")
    program = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
    if program is None:
        pytest.skip("no Chromium found: install Debian's chromium to test the browser")
    with api.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=program, headless=True, args=OPTIONS)
        yield chromium
        chromium.close()


def open_page(browser, server, language: str = "en-US"):
    """The front end with our nodes known to it, and what went wrong in scripts."""
    page = browser.new_context(viewport={"width": 1900, "height": 1000}, locale=language).new_page()
    page.failures = []
    page.on("pageerror", lambda error: page.failures.append(str(error)))
    page.goto(server.client.url)
    page.wait_for_function(f"() => window.app && window.app.graph && {NODES}", timeout=180_000)
    page.wait_for_timeout(3000)  # the first start opens the templates over the canvas
    page.keyboard.press("Escape")
    page.wait_for_timeout(500)
    return page


@pytest.fixture(scope="module")
def page(browser, server):
    return open_page(browser, server)


def show(page, name: str) -> None:
    """Load a template as the templates dialog does, and fit it into the window."""
    page.evaluate(
        """async ([pack, name]) => {
            const file = await (await fetch(`/api/workflow_templates/${pack}/${name}.json`)).json();
            await app.loadGraphData(file, true, true, name);
        }""",
        [PACK, name],
    )
    page.wait_for_timeout(1500)


def shoot(page, name: str) -> None:
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_the_front_ends_own_conversion_is_the_api_twin(page, path):
    show(page, path.stem)
    shoot(page, path.stem)
    graph = json.loads(page.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))
    twin = path.parent / "api" / path.name
    if os.environ.get("WRITE_TWINS"):
        twin.write_text(json.dumps(graph, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    assert json.loads(twin.read_text("utf-8")) == graph
    known = "(n) => n.type === 'MarkdownNote' || window.LiteGraph.registered_node_types[n.type]"
    assert page.evaluate(f"() => app.graph._nodes.every({known})")
    assert page.failures == []


def test_the_templates_are_listed_with_thumbnails(server):
    listed = server.client.ask("/workflow_templates")[PACK]
    assert sorted(listed) == [p.stem for p in TEMPLATES]


CURVE = "canvas[data-dreamfactory='curve']"


def painted(page) -> int:
    """Pixels of the curve's canvas that are not empty."""
    return page.evaluate(
        """(which) => {
            const canvas = document.querySelector(which);
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            let count = 0;
            for (let i = 3; i < data.length; i += 4) count += data[i] > 0;
            return count;
        }""",
        CURVE,
    )


def choose(page, kind: str, name: str, value) -> int:
    """Set a widget as a hand does; pixels of the curve then."""
    page.evaluate(
        """([kind, name, value]) => {
            const node = app.graph._nodes.find((n) => n.type === kind);
            const widget = node.widgets.find((w) => w.name === name);
            widget.value = value;
            widget.callback?.(value);
        }""",
        [kind, name, value],
    )
    page.wait_for_timeout(500)
    return painted(page)


def test_the_curve_is_drawn_where_it_is_known_and_follows_the_widgets(page):
    show(page, "demo")
    page.wait_for_selector(CURVE, state="attached")
    page.wait_for_timeout(500)
    nothing = painted(page)  # the checkpoint's own schedule is not known before a run: words, no curve
    assert nothing > 0
    schedule = "DreamFactoryNoiseSchedule"
    assert choose(page, schedule, "shift", "clip size") == nothing
    drawn = choose(page, schedule, "rescale", "lin")  # nothing of the checkpoint's is left; the clip's size is wired
    assert drawn != nothing
    shoot(page, "curve")
    assert choose(page, schedule, "rescale", "none") != drawn
    assert choose(page, schedule, "rescale", "lin") == drawn
    assert choose(page, "DreamFactoryImageToVideo", "frames", 16) != drawn  # the wired node's own size


def test_queueing_the_demo_shows_a_video(page, server):
    """Press Run, and wait for the node that saves to show what it saved."""
    show(page, "demo")
    page.get_by_role("button", name="Run", exact=True).first.click()
    page.wait_for_function(
        """() => {
            const node = app.graph._nodes.find((n) => n.type === 'SaveVideo');
            const shown = app.nodeOutputs?.[String(node.id)];
            return shown && JSON.stringify(shown).includes('DreamFactory_demo');
        }""",
        timeout=120_000,
    )
    page.wait_for_timeout(1500)
    shoot(page, "demo_done")
    assert page.failures == []
    assert list((server.base / "output" / "video").glob("DreamFactory_demo*.mp4"))


def test_a_chinese_browser_shows_chinese_names(browser, server):
    page = open_page(browser, server, "zh-CN")
    show(page, "demo")
    shoot(page, "demo_zh")
    names = page.evaluate(
        """() => [...new Set(app.graph._nodes.filter((n) => n.type.startsWith('DreamFactory'))
            .map((n) => window.LiteGraph.registered_node_types[n.type].title))]"""
    )
    chinese = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text("utf-8"))
    assert names
    assert set(names) <= {node["display_name"] for node in chinese.values()}


@pytest.mark.parametrize(("language", "words"), [("en-US", "cross-attention"), ("zh-CN", "首帧")])
def test_a_nodes_help_page_is_shown_with_its_picture(browser, server, language, words):
    page = open_page(browser, server, language)
    page.evaluate(
        """() => {
            const node = window.LiteGraph.createNode('DreamFactoryPACA');
            node.pos = [60, 60];
            app.graph.add(node);
            app.canvas.deselectAll();
            app.canvas.ds.offset = [200, 260]; // the buttons of a selected node show where it is in sight
            app.canvas.selectNode(node);
            app.canvas.setDirty(true, true);
        }"""
    )
    page.wait_for_timeout(1000)
    page.locator("[data-testid='info-button']").first.evaluate("(button) => button.click()")
    page.wait_for_function(f"() => document.body.innerText.includes({json.dumps(words)})", timeout=30_000)
    page.wait_for_function(
        "() => [...document.images].some((i) => i.src.includes('DreamFactoryPACA/node.png') && i.naturalWidth > 100)",
        timeout=30_000,
    )
    shoot(page, f"help_{language[:2]}")

"""The report in a real browser: it shows what the results say, keeps what is hostile as text, and has no barriers."""

from __future__ import annotations

import csv
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sai3ssh import matrix, report
from sai3ssh.results import matrix as results
from tests.browser import Browser, Tab, program
from tests.unit.test_aggregate import agent, failed_run, plan
from tests.unit.test_report_document import ENDED, STARTED, at, never_begun
from tests.unit.test_results import SECOND, FakeAgent, whole, write_run

AXE = Path(sys.executable).parent.parent / "axe" / "node_modules" / "axe-core" / "axe.min.js"
HOSTILE_AGENT = "<img src=x onerror=harmed=1>"
HOSTILE_TEXT = "</script><script>harmed=1</script><b onclick=harmed=1>'\"`${harmed=1}"


def run_directory(path: Path) -> Path:
    """Three agents: one whose link broke, one that was lost, one with a hostile name; errors, and hostile texts wherever they can be."""
    lost, broken = FakeAgent("lost", 50 * SECOND), FakeAgent(HOSTILE_AGENT, 9 * SECOND)
    for number in range(4):
        lost.second(number, 1e6)
    for number in range(10):
        broken.second(number, 3e6, errors={"get": {"http_503": number}})
    broken.end()
    broken.add("notice", level="warning", text=HOSTILE_TEXT)
    broken.final()
    events = (
        at(2.0, "link_down", agent=HOSTILE_AGENT, cause=HOSTILE_TEXT, level="warning"),
        at(5.5, "link_up", agent=HOSTILE_AGENT, attempt=3, down_s=3.5, resumed_offset=100),
        at(4.0, "link_down", agent="lost", cause="reset", level="warning"),
        at(8.0, "agent_lost", agent="lost", error=f"not reached: {HOSTILE_TEXT}"),
        at(9.0, "abort", reason=HOSTILE_TEXT),
        ENDED,
    )
    write_run(path, [whole("quick", 5 * SECOND), broken, lost], *STARTED, *events)
    (path / "controller.json").write_text(json.dumps({"start_delay_s": 2.0}))
    return path


LONG = "{type: histogram, buckets: [" + "{size: 4KiB, weight: 70}, " * 12 + "{size: 1MiB, weight: 30}]}"
HOSTILE_AXIS = f"env.{HOSTILE_TEXT}"


def series_directory(path: Path) -> Path:
    """Three by two: one twice, one PARTIAL, one FAILED, one not run, errors, and hostile texts and a very long one wherever they can be."""
    combinations = []
    for number, count in enumerate((10, 20, 40, 60, 50, 0)):
        values = {"concurrency": str(4 ** (number // 2 + 1)), HOSTILE_AXIS: (HOSTILE_TEXT, LONG)[number % 2]}
        runs = [path / f"run-{number}-{part}" for part in range((2, 1, 1, 1, 1, 0)[number])]
        for part, run in enumerate(runs):
            if number == 3:
                failed_run(run, run.name)
                with (run / "events.ndjson").open("a") as log:
                    log.write(json.dumps(ENDED) + "\n")
                continue
            agents = [
                agent(f"h{n}", (1 + number) * 1e6, count + 2 * part, 10 * number + n, errors={"get": {HOSTILE_TEXT: 1}}) for n in (1, 2)
            ]
            write_run(run, agents, *STARTED, ENDED, complete=number != 4, plan=plan(run.name))
        combinations.append((values, runs))
    (path / "run-0-0" / "report.html").touch()
    found = path / "matrix-x"
    found.mkdir()
    results.write(found, results.matrix(["concurrency", HOSTILE_AXIS], combinations))
    return found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser(program()) as found:
        yield found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = run_directory(tmp_path_factory.mktemp("report") / "r")
    report.write(report.document(found), found)
    return found


@pytest.fixture(scope="module")
def series_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = series_directory(tmp_path_factory.mktemp("series"))
    report.write(matrix.document(found, found), found)
    return found


@pytest.fixture(scope="module")
def series(browser: Browser, series_run: Path) -> Tab:
    """The report of a series, for tests that leave it as it is."""
    return opened(browser, series_run)


def opened(browser: Browser, run: Path, *, dark: bool = False) -> Tab:
    """The report, with every plot drawn, as when it has been scrolled through."""
    tab = browser.tab(1280, 1000, dark=dark)
    tab.open((run / "report.html").as_uri())
    # What plots are first told of where they are comes with a frame, and must not come after this.
    tab.evaluate("new Promise((go) => requestAnimationFrame(() => requestAnimationFrame(go)))")
    tab.evaluate("sai3ssh.page.drawAll()")
    return tab


def middle(tab: Tab, plot: str, share: float) -> tuple[float, float]:
    """Where in the window a plot is, at a share of its width and half its height."""
    tab.call("Page.bringToFront")
    tab.evaluate(f"document.getElementById('{plot}').scrollIntoView({{ block: 'center', behavior: 'instant' }})")
    box = f"document.querySelector('#{plot} .canvas').getBoundingClientRect()"
    left, top, width, height = tab.evaluate(f"(({{ x, y, width, height }}) => [x, y, width, height])({box})")
    return left + share * width, top + height / 2


@pytest.fixture(scope="module")
def page(browser: Browser, run: Path) -> Tab:
    """For tests that only look."""
    return opened(browser, run)


INKS = """[...document.querySelectorAll('figure canvas:not(.swatch)')].map((canvas) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  const found = new Set();
  for (let at = 0; at < data.length; at += 4) if (data[at + 3] > 200) found.add(`${data[at]},${data[at + 1]},${data[at + 2]}`);
  return found.size;
})"""


def test_it_draws_every_plot_asks_for_nothing_and_complains_of_nothing(page: Tab, run: Path) -> None:
    tab = page
    assert tab.evaluate("document.querySelectorAll('figure').length") >= 10
    inks = tab.evaluate(INKS)
    assert len(inks) >= 9
    assert min(inks) >= 5, inks
    assert tab.complaints() == []
    assert tab.requests() == [(run / "report.html").as_uri()]
    results = json.loads((run / "results.json").read_text())
    shown = tab.evaluate("document.querySelector('#operations-table tbody tr td').textContent")
    assert float(shown) == pytest.approx(results["stages"][0]["operations"]["get"]["ops_per_s"], abs=0.5)
    assert tab.evaluate("document.querySelector('.badge').textContent").split()[-1] == results["verdict"]


def test_what_was_lost_is_shaded_with_a_legend_that_says_what_it_means(page: Tab) -> None:
    tab = page
    legend = tab.evaluate("document.querySelector('.shade-legend').textContent")
    assert "Link lost" in legend
    assert "went on measuring" in legend
    assert "Agent lost" in legend
    for plot in ("agents-over-time", "throughput", "latency", "errors", "host-cpu", "rtt"):
        if not tab.evaluate(f"document.querySelector('#{plot} .canvas').parentElement.hidden"):
            said = tab.evaluate(f"document.querySelector('#{plot} .canvas').getAttribute('aria-label')")
            assert f"{HOSTILE_AGENT}: link lost" in said, plot
            assert "lost: agent lost" in said, plot


def test_what_is_hostile_is_text(page: Tab, run: Path) -> None:
    file = (run / "report.html").read_text()
    assert "<script>harmed" not in file
    assert "<b onclick" not in file
    tab = page
    assert tab.evaluate("typeof harmed") == "undefined"
    assert tab.evaluate("document.querySelectorAll('#report img, #report script, #report [onclick]').length") == 0
    assert tab.evaluate("document.querySelectorAll('script').length") == 4
    said = tab.evaluate("document.getElementById('report').textContent")
    assert said.count(HOSTILE_TEXT) >= 4
    assert HOSTILE_AGENT in said
    tab.evaluate("document.getElementById('agents-over-time-as-table').click()")
    assert HOSTILE_TEXT in tab.evaluate("document.getElementById('agents-over-time-table').textContent")
    # What is on a canvas is no element, but what is told when the mouse is over it is.
    x, y = middle(tab, "throughput", 0.4)
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.wait(f"[...document.querySelectorAll('.tip')].some((tip) => tip.textContent.includes({json.dumps(HOSTILE_TEXT)}))")
    assert tab.evaluate("typeof harmed") == "undefined"
    assert tab.complaints() == []


def test_the_policy_refuses_what_is_not_of_the_report(browser: Browser, run: Path) -> None:
    tab = opened(browser, run)
    tab.evaluate("document.body.append(Object.assign(document.createElement('script'), { textContent: 'harmed = 1' }))")
    tab.evaluate("document.body.append(Object.assign(document.createElement('img'), { src: 'https://example.invalid/x.png' }))")
    assert tab.evaluate("typeof harmed") == "undefined"
    tab.wait("true")
    assert any("Content Security Policy" in text for text in tab.complaints())


OUTLINED = """(() => {
  const focused = document.activeElement;
  const { outlineStyle, outlineWidth } = getComputedStyle(focused.matches('.segment input') ? focused.nextElementSibling : focused);
  return outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2;
})()"""


def reached_by_tab(tab: Tab) -> list[str]:
    """What a keyboard comes to, by id or text; each shows that it has the focus."""
    tab.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    reached: list[str] = []
    for _ in range(120):
        tab.press("Tab")
        focus = tab.evaluate(
            "document.activeElement === document.body ? null : document.activeElement.id || document.activeElement.textContent"
        )
        if focus is None or focus in reached:
            break
        reached.append(focus)
        assert tab.evaluate(OUTLINED), focus
    return reached


def test_a_keyboard_reaches_and_uses_everything(browser: Browser, run: Path) -> None:
    tab = opened(browser, run)
    reached = reached_by_tab(tab)
    assert {"theme", "stage-0", "throughput-as-table", "throughput-copy", "range-from", "agent-key-0", "operations-table-scroll"} <= set(
        reached
    )
    # It ends at the end of the page, and is caught nowhere.
    assert "plan-details" not in reached
    assert reached[-1] == "events-table-scroll"

    tab.evaluate("document.getElementById('throughput-as-table').focus()")
    tab.press("Enter")
    assert tab.evaluate("document.querySelectorAll('#throughput-table tbody tr').length") == 10
    assert tab.evaluate("document.getElementById('throughput-as-table').getAttribute('aria-pressed')") == "true"
    tab.press(" ")
    assert tab.evaluate("document.querySelector('#throughput .numbers').hidden")
    tab.evaluate("document.getElementById('view-all').focus()")
    tab.press("ArrowRight")
    assert tab.evaluate("[document.activeElement.id, document.activeElement.checked]") == ["view-agent", True]
    tab.evaluate("document.getElementById('agent-key-0').focus()")
    tab.press("Enter")
    assert tab.evaluate("[document.activeElement.id, document.activeElement.getAttribute('aria-pressed')]") == ["agent-key-0", "false"]
    tab.evaluate("document.getElementById('throughput-as-table').click()")
    heads = tab.evaluate("[...document.querySelectorAll('#throughput-table thead th')].map((head) => head.textContent)")
    assert [head.split(" operations/s")[0] for head in heads] == ["seconds", HOSTILE_AGENT, "lost"]
    assert tab.complaints() == []


def test_the_numbers_of_a_plot_can_be_copied_and_many_shades_are_one(page: Tab) -> None:
    tab = page
    tab.evaluate("Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { window.copied = text; } } })")
    tab.evaluate("document.getElementById('host-cpu-copy').click()")
    tab.wait("window.copied !== undefined")
    head, *rows = tab.evaluate("window.copied").splitlines()
    assert head == f"seconds,quick,{HOSTILE_AGENT},lost"
    assert rows[0] == "0.5,15,15,15"
    assert len(rows) == 10
    tab.wait("document.getElementById('status').textContent.includes('10 rows copied')")
    assert tab.evaluate("[0.4, 2.6, 9].map((x) => valueAt([[0, 5], [1, 6], [2, null], [3, 7]], x, 1.5))") == [5, 7, None]
    level = "Object.assign([[0, 5], [10, 5], [10, 6], [20, 6]], { level: true })"
    assert tab.evaluate(f"[3, 10, 13, 20.5].map((x) => valueAt({level}, x, 1))") == [5, 6, 6, None]
    spans = "[[1, 3, 'link_lost'], [2, 5, 'link_lost'], [2, 4, 'agent_lost'], [7, 9, 'link_lost']]"
    shades = f"{spans}.map(([from_s, to_s, kind]) => ({{ from_s, to_s, kind, agent: 0 }}))"
    assert tab.evaluate(f"united({shades}).map(({{ kind, from_s, to_s }}) => [kind, from_s, to_s])") == [
        ["link_lost", 1, 5],
        ["link_lost", 7, 9],
        ["agent_lost", 2, 4],
    ]
    assert tab.evaluate("csv(['a'], [['=1+1'], ['x,\"y\"'], [null], [-2]])") == 'a\r\n\'=1+1\r\n"x,""y"""\r\n\r\n-2\r\n'


LATER = """
new Promise((go) => {
  const page = Object.assign(Object.create(Shell.prototype), { waiting: new Set() });
  const found = [];
  const one = { refresh: () => found.push('drawn') };
  window.addEventListener('error', (event) => found.push(event.message));
  page.later(one);
  page.later(one);
  requestIdleCallback(() => requestIdleCallback(() => go(found)));
})
"""


def test_a_plot_that_changes_before_it_was_drawn_is_drawn_once(browser: Browser, run: Path) -> None:
    assert opened(browser, run).evaluate(LATER) == ["drawn"]


def test_there_are_no_barriers(browser: Browser, run: Path) -> None:
    tab = opened(browser, run)
    tab.evaluate("['throughput', 'heat'].forEach((id) => document.getElementById(`${id}-as-table`).click())")
    check_barriers(tab)


def check_barriers(tab: Tab) -> None:
    """In both themes, with all details open."""
    if not AXE.exists():
        assert not os.environ.get("CI"), "no axe-core: `make .venv/axe/ready`"
        pytest.skip("no axe-core: `make .venv/axe/ready` installs it where npm is")
    tab.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    tab.call("Runtime.evaluate", expression=AXE.read_text())
    for theme in ("light", "dark"):
        tab.prefer(dark=theme == "dark")
        tab.wait(f"document.documentElement.dataset.theme === '{theme}'")
        looked = tab.evaluate("axe.run(document, { resultTypes: ['violations'] }).then((found) => JSON.stringify(found))")
        found = json.loads(looked)
        assert len(found["passes"]) > 20
        assert [(theme, one["id"], one["impact"], one["nodes"][0]["html"]) for one in found["violations"]] == []


def test_the_theme_is_that_of_the_system_until_another_is_chosen(browser: Browser, run: Path) -> None:
    tab = opened(browser, run, dark=True)
    ground = "getComputedStyle(document.body).backgroundColor"
    series = "document.querySelector('#throughput .key line').getAttribute('stroke')"
    dark = tab.evaluate(f"[{ground}, {series}]")
    tab.prefer(dark=False)
    tab.wait("document.documentElement.dataset.theme === 'light'")
    light = tab.evaluate(f"[{ground}, {series}]")
    assert all(a != b for a, b in zip(dark, light, strict=True))
    tab.evaluate("document.getElementById('theme').click()")
    assert tab.evaluate(f"[{ground}, {series}]") == dark
    assert tab.evaluate("document.getElementById('theme').getAttribute('aria-pressed')") == "true"
    tab.evaluate("localStorage.clear()")


def test_a_newer_document_changes_what_has_changed_and_nothing_else(browser: Browser, run: Path) -> None:
    tab = opened(browser, run)
    told: dict[str, Any] = report.document(run)
    tab.evaluate("document.getElementById('view-agent').click()")
    tab.evaluate("document.getElementById('latency-as-table').click()")
    tab.evaluate(
        "window.before = [...document.querySelectorAll('figure, figure canvas, #agents-table, #losses-table')];"
        "document.getElementById('percentile-p99').focus(); document.getElementById('plan-details').open = true"
    )
    figures = told["stages"][0]["operations"]["get"]
    figures["ops_per_s"] += 4000
    for part in told["stages"][0]["series"]["agents"]:
        part["at"].append(20)
        part["span_s"].append(1.0)
        for column in (*part["operations"]["get"].values(), *part["host"].values()):
            column.append(column[-1])
    # Plots that nobody looks at are made later, or when their table is wanted.
    tab.evaluate(
        "sai3ssh.page.charts.forEach((chart) => { chart.near = false; });"
        f"sai3ssh.render({json.dumps(told)}); document.getElementById('host-sent-as-table').click()"
    )
    assert tab.evaluate("document.querySelectorAll('#host-sent-table tbody tr').length") == 11
    assert tab.evaluate("document.querySelector('#operations-table tbody td').textContent").startswith("4,")
    assert tab.evaluate("document.querySelectorAll('#latency-table tbody tr').length") == 11
    assert tab.evaluate("window.before.every((node) => node.isConnected)")
    assert tab.evaluate(
        "[document.activeElement.id, document.getElementById('view-agent').checked, document.getElementById('plan-details').open]"
    ) == [
        "percentile-p99",
        True,
        True,
    ]
    assert tab.complaints() == []
    with pytest.raises(AssertionError, match="documents of version 1"):
        tab.evaluate("sai3ssh.render({ format: 'sai3ssh.document', version: 2 })")


def test_nothing_is_wider_than_the_window(page: Tab, series: Tab) -> None:
    for tab in (page, series):
        for width in (400, 1000, 2560, 1280):
            tab.resize(width, 1000)
            tab.wait(f"innerWidth === {width} && document.documentElement.scrollWidth <= {width}")


def test_dragging_over_a_plot_shows_that_part_in_all_of_them(browser: Browser, run: Path) -> None:
    tab = opened(browser, run)
    for kind, share in (("mousePressed", 0.4), ("mouseMoved", 0.6), ("mouseReleased", 0.7)):
        x, y = middle(tab, "throughput", share)
        tab.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
    start, end = tab.evaluate("[sai3ssh.page.state.from, sai3ssh.page.state.to]")
    assert 2.5 < start < 4.5
    assert 6.0 < end < 8.0
    for plot in ("latency", "host-cpu"):
        assert tab.evaluate(f"sai3ssh.page.charts.get('{plot}').echart.getOption().xAxis[0].min") == start
    tab.evaluate("document.getElementById('range-all').click()")
    assert tab.evaluate("[sai3ssh.page.state.from, sai3ssh.page.state.to]") == [None, None]


def test_a_run_in_which_nothing_was_done_is_shown(browser: Browser, run: Path, tmp_path: Path) -> None:
    tab = opened(browser, run)
    tab.evaluate(f"sai3ssh.render({json.dumps(never_begun(tmp_path / 'r'))}); sai3ssh.page.drawAll()")
    assert tab.evaluate("document.querySelector('.badge').textContent").endswith("FAILED")
    assert tab.evaluate("[...document.querySelectorAll('#time .empty:not([hidden])')].length") >= 4
    assert tab.complaints() == []


def test_a_browser_that_is_too_old_says_so(browser: Browser, run: Path, tmp_path: Path) -> None:
    text = (run / "report.html").read_text()
    shutil.copy(run / "report.html", tmp_path / "broken.html")
    start = text.index('id="document">') + len('id="document">')
    (tmp_path / "broken.html").write_text(text[:start] + "AAAA" + text[start:])
    tab = browser.tab()
    tab.open((tmp_path / "broken.html").as_uri(), ready="document.querySelector('#status.failed') !== null")
    assert "cannot be shown" in tab.evaluate("document.getElementById('status').textContent")


def text_of(tab: Tab, selector: str) -> str:
    found: str = tab.evaluate(f"document.querySelector({json.dumps(selector)}).textContent")
    return found


def test_a_series_shows_every_combination_and_marks_what_is_missing(series: Tab) -> None:
    tab = series
    assert text_of(tab, ".badge").endswith("PARTIAL")
    reasons = tab.evaluate("[...document.querySelectorAll('.reasons li')].map((one) => one.textContent)")
    assert [reason.rpartition(LONG)[2][:10] for reason in reasons if LONG in reason] == [": FAILED: ", ": not run:"]
    assert sum(": PARTIAL: " in reason for reason in reasons) == 1
    rows = tab.evaluate(
        "[...document.querySelectorAll('#combinations-table tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent))"
    )
    assert [row[0] for row in rows] == list("123456")
    assert [row[3].split(" ", 1)[1] for row in rows] == ["COMPLETE", "COMPLETE", "COMPLETE", "FAILED", "PARTIAL", "not run"]
    assert [row[5][:3] for row in rows if row[4] == "get"] == ["22.", "40.", "80.", "100"]
    links = tab.evaluate(
        "[...document.querySelectorAll('main a')].map((link) => [link.getAttribute('href'), link.getAttribute('aria-label')])"
    )
    assert links == [["../run-0-0/report.html", "run 1: report of run-0-0"], ["../run-0-0/report.html", None]]
    cells = tab.evaluate(
        "[...document.querySelectorAll('#grid-table tbody tr')].map((row) => [...row.cells].map((cell) => cell.textContent).slice(1))"
    )
    assert cells == [["22.0", "80.0", "PARTIAL 100"], ["40.0", "FAILED", "not run"]]
    assert "Whiskers: lowest and highest run." in text_of(tab, "#throughput .note")
    assert "Without figures, and no point: 2 of 6. Hollow: PARTIAL (1)." in text_of(tab, "#throughput .note")
    assert tab.evaluate("document.querySelectorAll('#spread-table tbody tr').length") == 1
    said = tab.evaluate("document.querySelector('#throughput .canvas').getAttribute('aria-label')")
    assert f"{HOSTILE_TEXT}: 22.0 at concurrency 4, 80.0 at concurrency 16, 100 at concurrency 64" in said
    assert min(tab.evaluate(INKS)) >= 5


def test_what_is_hostile_in_a_series_is_text(series: Tab) -> None:
    tab = series
    assert tab.evaluate("[typeof harmed, document.querySelectorAll('#report img, #report script, #report [onclick]').length]") == [
        "undefined",
        0,
    ]
    assert text_of(tab, "#report").count(HOSTILE_TEXT) >= 10
    x, y = middle(tab, "throughput", 0.5)
    tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    tab.wait(f"[...document.querySelectorAll('.tip')].some((tip) => tip.textContent.includes({json.dumps(HOSTILE_TEXT)}))")
    assert tab.evaluate("typeof harmed") == "undefined"
    assert tab.complaints() == []
    assert len(tab.requests()) == 1


def test_a_series_is_seen_along_each_parameter_and_copied(series: Tab) -> None:
    tab = series
    tab.evaluate("Object.defineProperty(navigator, 'clipboard', { value: { writeText: async (text) => { window.copied = text; } } })")

    def copied(button: str) -> list[list[str]]:
        tab.evaluate(f"window.copied = undefined; document.getElementById('{button}').click()")
        tab.wait("window.copied !== undefined")
        return list(csv.reader(tab.evaluate("window.copied").splitlines()))

    assert [row[0] for row in copied("throughput-copy")] == ["concurrency", "4", "16", "64"]
    head, *rows = copied("saturation-copy")
    assert head == ["line", "concurrency", "operations/s", "p99 us"]
    assert [row[1:3] for row in rows] == [["4", "22"], ["16", "80"], ["64", "100"], ["4", "40"]]
    assert copied("combinations-copy")[4][:6] == ["4", "16", LONG, "FAILED"]
    wanted = {"theme", "axis-0", "op-get", "line-1", "saturation-as-table", "grid-copy", "combinations-table-scroll", "runs-table-scroll"}
    assert wanted <= set(reached_by_tab(tab))
    tab.evaluate("document.getElementById('axis-0').focus()")
    tab.press("ArrowRight")
    assert tab.evaluate("[document.activeElement.id, document.activeElement.checked]") == ["axis-1", True]
    head, *rows = copied("throughput-copy")
    assert head[1:] == [f"concurrency {n} operations/s" for n in (4, 16, 64)]
    assert [row[1:] for row in rows] == [["22", "80", "100"], ["40", "", ""]]
    tab.press("ArrowLeft")
    assert tab.evaluate("[quantities(['1MiB', '4KiB', '8']), quantities(['1m', '30s']), quantities(['a', '1'])]") == [
        [1 << 20, 4096, 8],
        [60, 30],
        None,
    ]
    assert tab.complaints() == []


def test_a_series_has_no_barriers(series: Tab) -> None:
    series.evaluate("['throughput', 'saturation'].forEach((id) => document.getElementById(`${id}-as-table`).click())")
    check_barriers(series)
    series.evaluate("['throughput', 'saturation'].forEach((id) => document.getElementById(`${id}-as-table`).click())")


def test_repetitions_of_one_plan_are_shown_run_by_run(browser: Browser, series_run: Path, tmp_path: Path) -> None:
    tab = opened(browser, series_run)
    runs = [tmp_path / f"r{number}" for number in range(3)]
    for number, run in enumerate(runs[:2]):
        write_run(run, [agent("h1", 1e6, 10 + number, number), agent("h2", 1e6, 10, number)], plan=plan(run.name))
    failed_run(runs[2], "r2")
    tab.evaluate(f"sai3ssh.render({json.dumps(matrix.document_of_runs(runs, tmp_path))}); sai3ssh.page.drawAll()")
    assert tab.evaluate("sai3ssh.page.charts.get('throughput').plot.lines.map((line) => line.points)") == [[[0, 20], [1, 21], [2, None]]]
    assert tab.evaluate("[...document.querySelectorAll('#runs-table tbody tr')].map((row) => row.cells[1].textContent)") == [
        "✓ COMPLETE",
        "✓ COMPLETE",
        "✕ FAILED",
    ]
    assert tab.evaluate("document.getElementById('grid').hidden")
    assert text_of(tab, "#combinations-heading") == "All runs together"
    assert tab.evaluate("document.querySelectorAll('#curves figure').length") == 2
    assert tab.complaints() == []


def test_of_many_lines_some_are_shown_and_others_are_chosen(browser: Browser, series_run: Path, tmp_path: Path) -> None:
    tab = opened(browser, series_run)
    figures = {"ops_per_s": 1.0, "mib_per_s": 1.0, **{f"{name}_us": 1000.0 for name in results.LATENCIES}, "errors": 0}
    row = {"stage": "mix", "operation": "get", "runs": 1, "ops": 1, **figures, "error_kinds": {}, "spread": {}, "each": []}
    entry = {"runs": [], "verdict": "COMPLETE", "reasons": [], "agents": 1, "each": []}
    axes = {"a": "123", "b": "1234", "c": "12345"}
    entries: list[results.Entry] = [
        ({**entry, "values": dict(zip(axes, values, strict=True))}, [row]) for values in itertools.product(*axes.values())
    ]
    told = report.matrix(results.together(list(axes), entries), [[]] * 60, {"run_id": "", "name": "many"}, tmp_path)
    tab.evaluate(f"sai3ssh.render({json.dumps(told)}); sai3ssh.page.drawAll()")
    shown = "sai3ssh.page.charts.get('latency').plot.lines.filter((line) => !sai3ssh.page.hides(null, line)).map((line) => line.name)"
    assert len(tab.evaluate(shown)) == 12
    assert tab.evaluate("document.querySelectorAll('.agents-legend button[aria-pressed=\"false\"]').length") == 8
    tab.evaluate("document.getElementById('only-1-v1').click(); sai3ssh.page.drawAll()")
    assert tab.evaluate(shown) == [f"b 2, c {n}" for n in range(1, 6)]
    assert tab.complaints() == []

"""The report in a real browser: silent, drawn, at any width, dark, without scripts, by keyboard alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, REQUIRED, Browser, Page, opened
from test_report import report_on_runs

if REQUIRED:
    assert CHROMIUM is not None, "NRC_BROWSER=required, but there is no Chromium to be found"
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="needs Chromium (apt-get install chromium) to open the page"
)
TRACES = "document.querySelectorAll('#plot .trace.scatter').length"
FOCUS = "document.activeElement.id"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report_on_runs(tmp_path_factory) / "report" / "index.html"


@pytest.fixture(scope="module")
def explorer(report: Path) -> Path:
    return report.with_name("explorer.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def tab_to(page: Page, name: str, most: int = 30) -> None:
    """Press Tab until the element with this id, or the link to this place, has the focus."""
    for _ in range(most):
        if name in (page.value(FOCUS), page.value("document.activeElement.getAttribute('href')")):
            return
        page.press("Tab")
    raise AssertionError(f"{most} times Tab do not lead to {name}")


def go_to_the_explorer(page: Page) -> None:
    """As somebody without a mouse would, to its first control."""
    tab_to(page, "experiment")


def test_the_chart_is_drawn_and_nothing_complains(
    report: Path, explorer: Path, browser: Browser, tmp_path: Path
) -> None:
    with opened(browser, report) as page:
        pictures = "[...document.images].filter((i) => (i.loading = 'eager') && i.complete && !i.naturalWidth).length"
        assert page.value(pictures) == 0 and page.complaints() == []
    with opened(browser, explorer) as page:
        assert page.value(TRACES) == 4  # two seeds, their mean, and no decay
        assert page.value("document.getElementById('about').textContent").startswith("nrc1: NRC1 = mean_i")
        assert page.complaints() == []
    # the same eyes do see an error and a refused request, so that silence above means something
    for bad in ("<script>undefined_function()</script>", "<img src='file:///nowhere/x.png'>"):
        file = tmp_path / "bad.html"
        file.write_text(f"<!DOCTYPE html>{bad}")
        with opened(browser, file) as page:
            assert page.complaints()


@pytest.mark.parametrize("width", [390, 320, 1280])
def test_the_pages_never_scroll_sideways(report: Path, explorer: Path, browser: Browser, width: int) -> None:
    """Wide tables scroll in their own frame, also with every claim unfolded."""
    with opened(browser, report, width=width) as page:
        assert page.value("innerWidth") == width
        page.value("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        assert page.value("document.documentElement.scrollWidth") <= width
        assert (
            page.value("document.querySelector('.matrix').parentElement.scrollWidth") > width or width == 1280
        )
    with opened(browser, explorer, width=width) as page:
        assert page.value("document.documentElement.scrollWidth") <= width
        assert page.value("document.getElementById('plot').getBoundingClientRect().right") <= width


def luminance(colour: str) -> float:
    """Relative luminance (WCAG) of `rgb(r, g, b)`."""
    parts = [int(v) / 255 for v in colour[colour.index("(") + 1 : -1].split(",")[:3]]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True])
def test_text_stands_out_from_its_ground_in_either_scheme(
    report: Path, explorer: Path, browser: Browser, dark: bool
) -> None:
    with opened(browser, report, dark=dark) as page:
        ground = page.value("getComputedStyle(document.body).backgroundColor")
        assert (luminance(ground) < 0.1) == dark
        found = page.value(
            """["body", ".small", ".chip.holds", ".chip.fails", ".chip.open", ".chip.absent", ".depends", "a"].map((s) => {
                 const e = document.querySelector(s), own = getComputedStyle(e).backgroundColor;
                 return [s, getComputedStyle(e).color, own];
               })"""
        )
        for name, colour, own in found:
            behind = ground if own == "rgba(0, 0, 0, 0)" else own
            low, high = sorted((luminance(colour), luminance(behind)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, colour, behind)
    with opened(browser, explorer, dark=dark) as page:
        ink = page.value("getComputedStyle(document.querySelector('#plot .xtitle')).fill")
        assert (luminance(ink) > 0.5) == dark  # the chart follows


@pytest.mark.parametrize("name", ["index.html", "explorer.html"])
def test_without_scripts_all_but_the_explorer_is_there(name: str, report: Path, browser: Browser) -> None:
    with opened(browser, report.with_name(name), scripts=False) as page:
        # an empty root of the accessibility tree would mean an empty page; scripts cannot be asked
        tree = page.call("Accessibility.getFullAXTree")["nodes"]
        words = " ".join(str(node.get("name", {}).get("value", "")) for node in tree)
        told = ("Scorecard", "does not hold") if name == "index.html" else ("The explorer needs JavaScript",)
        assert all(text in words for text in told)
        assert "Weight decay all" not in words and "Horizontal axis" not in words
    if name == "explorer.html":
        with opened(browser, report.with_name(name)) as page:
            assert page.value("getComputedStyle(document.querySelector('.js-only')).display") == "block"


def test_by_keyboard_alone(explorer: Path, browser: Browser) -> None:
    with opened(browser, explorer) as page:
        page.press("Tab")
        assert page.value("document.activeElement.className") == "skip"
        go_to_the_explorer(page)
        for name in ("data", "wd", "layer", "metric", "x", "logx", "logy"):
            page.press("Tab")
            assert page.value(FOCUS) == name
        assert page.value("getComputedStyle(document.activeElement).outlineStyle") != "none"
        before = page.value("document.querySelector('#plot .yaxislayer-above').textContent")
        page.press("Space")  # log y off
        assert page.value("document.getElementById('logy').checked") is False
        assert page.value("document.querySelector('#plot .yaxislayer-above').textContent") != before


def test_changing_a_control_redraws(explorer: Path, browser: Browser) -> None:
    with opened(browser, explorer) as page:
        go_to_the_explorer(page)
        tab_to(page, "wd")
        page.press("ArrowDown")  # from "all" to the largest weight decay
        assert page.value("document.getElementById('wd').value") == "0.05"
        assert page.value(TRACES) == 3  # two seeds and their mean
        assert page.value("document.getElementById('first').textContent") == "Start"
        change = "e.dispatchEvent(new Event('change'))"
        page.value(f"(() => {{ const e = document.getElementById('x'); e.value = 'layer'; {change}; }})()")
        assert page.value("document.getElementById('first').textContent") == "First layer"
        assert page.value("document.querySelector('#plot .xtitle').textContent") == "layer (its input)"
        assert page.complaints() == []


def test_what_moves_waits_to_be_asked_and_can_be_stopped(report: Path, browser: Browser) -> None:
    shown = "document.querySelector('#animation img[src$=gif]').checkVisibility()"
    with opened(browser, report) as page:
        assert page.value(shown) is False
        page.value("document.querySelector('#animation summary').focus()")
        page.press("Enter")
        assert page.value(shown) is True
        page.press("Enter")
        assert page.value(shown) is False

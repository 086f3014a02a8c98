"""Pages of runs in a real browser: opened, moved, pointed at, narrow and in the dark."""

import io

import numpy as np
import pytest
from PIL import Image

from gen_jax.launch.cli.main import main
from tests.browser.driver import browsers
from tests.launch.test_report import make_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def start():
    with browsers() as start:
        yield start


def shot(browser):
    return np.asarray(Image.open(io.BytesIO(browser.screenshot())).convert("RGB"))


def test_a_report_opens_and_its_slider_moves(start, tmp_path):
    work = make_run(tmp_path)
    assert main(["report", "--workdir", str(work)]) == 0
    browser = start()
    browser.open(work / "report.html")
    shown = "return [...document.querySelectorAll('.pic img')].filter(x=>!x.hidden&&x.naturalWidth)"
    assert browser.run(shown + ".map(x=>x.dataset.step)") == ["40"]
    before = shot(browser)
    browser.run(
        "const r=document.querySelector('.pic input');r.value=0;r.dispatchEvent(new Event('input'))"
    )
    assert browser.run(shown + ".map(x=>x.dataset.step)") == ["10"]
    assert (shot(browser) != before).any()
    tip = browser.run(
        "const f=document.querySelector('figure.curve'),s=f.querySelector('svg'),"
        "b=s.getBoundingClientRect();s.dispatchEvent(new PointerEvent('pointermove',"
        "{clientX:b.right-12,clientY:b.top+20}));return f.querySelector('.tip').textContent"
    )
    assert "step 40: 2.5" in tip
    assert browser.complaints() == []


@pytest.mark.parametrize("width", [390, 1240])
def test_pages_fit_the_window_and_the_dark(start, tmp_path, width):
    works = [make_run(tmp_path, name, seed) for seed, name in enumerate("ab")]
    out = tmp_path / "c.html"
    assert main(["compare", *map(str, works), "--out", str(out)]) == 0
    browser = start(width=width, dark=True)
    browser.open(out)
    wide = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert wide[0] <= wide[1]
    assert shot(browser)[2, 2].max() < 60
    pictures = "return [...document.images].every(x=>x.complete&&x.naturalWidth>0)"
    assert browser.run(pictures)
    assert browser.complaints() == []

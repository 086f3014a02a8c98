"""The page: what was read, as HTML that needs nothing but a browser."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gen_jax.launch.config.fields import flatten
from gen_jax.launch.report.reading import Look

__all__ = ["comparison_page", "report_page"]

_COLORS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
_WIDTH, _HEIGHT, _LEFT, _BELOW = 420, 180, 52, 22

_STYLE = """
:root{--ink:#111;--soft:#5b6270;--line:#e2e5ea;--card:#fff;--ground:#f7f8fa;--mark:#fef3c7}
@media (prefers-color-scheme:dark){:root{--ink:#e8eaee;--soft:#9aa3b2;--line:#2b313c;--card:#171b22;
--ground:#0e1116;--mark:#3b3415}}
*{box-sizing:border-box}body{font:15px/1.5 system-ui,sans-serif;margin:0 auto;padding:20px 14px;
max-width:1200px;color:var(--ink);background:var(--ground)}
h1{margin:0;overflow-wrap:anywhere}h2{margin:28px 0 6px}.soft{color:var(--soft)}
.bar{height:8px;background:var(--line);border-radius:4px;margin:10px 0 18px}
.bar div{height:8px;border-radius:4px;background:#2563eb}
figure{display:inline-block;margin:6px 6px 6px 0;padding:10px;background:var(--card);
border:1px solid var(--line);border-radius:8px;vertical-align:top;max-width:100%}
figcaption{font-size:13px;color:var(--soft)}figcaption b{color:var(--ink)}
.pic img{image-rendering:pixelated;width:480px;max-width:100%;display:block}
.pic img[hidden]{display:none}input[type=range]{width:100%}
svg{width:420px;max-width:100%;height:auto;display:block}text{font:11px system-ui;fill:var(--soft)}
.tip{font-size:12px;min-height:18px;color:var(--soft)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}
td,th{padding:2px 14px 2px 0;border-bottom:1px solid var(--line);text-align:left;
overflow-wrap:anywhere}.changed td{background:var(--mark)}
pre{background:#111827;color:#e5e7eb;padding:12px;border-radius:8px;overflow-x:auto}
.dot{display:inline-block;width:10px;height:10px;border-radius:5px;margin-right:6px}
"""

_SCRIPT = """
document.querySelectorAll('.pic input').forEach(r=>r.addEventListener('input',()=>{
 const f=r.closest('.pic').querySelectorAll('img');
 f.forEach((x,i)=>x.hidden=i!=r.value);
 r.closest('.pic').querySelector('b').textContent=f[r.value].dataset.step}));
document.querySelectorAll('figure.curve').forEach(fig=>{
 const data=JSON.parse(fig.dataset.curve),svg=fig.querySelector('svg'),
  line=svg.querySelector('line'),tip=fig.querySelector('.tip');
 svg.addEventListener('pointermove',e=>{
  const b=svg.getBoundingClientRect(),x=(e.clientX-b.left)/b.width*data.w;
  const s=data.x0+(x-data.l)/(data.w-data.l-8)*(data.x1-data.x0);
  const near=data.runs.map(r=>[r[0],r[1].reduce((a,p)=>
   Math.abs(p[0]-s)<Math.abs(a[0]-s)?p:a,r[1][0])]);
  const at=data.l+(near[0][1][0]-data.x0)/Math.max(1,data.x1-data.x0)*(data.w-data.l-8);
  line.setAttribute('x1',at);line.setAttribute('x2',at);line.style.display='';
  tip.textContent=near.map(n=>(n[0]?n[0]+': ':'')+'step '+n[1][0]+': '+
   Number(n[1][1].toPrecision(5))).join('   ')});
 svg.addEventListener('pointerleave',()=>{line.style.display='none';tip.textContent=''})});
"""


def report_page(look: Look, command: str = "") -> str:
    """Write the page of one run: progress, pictures, curves, evaluation, config, what comes next.

    Args:
        look: at the run.
        command: that trains it.
    """
    done, total = look.steps
    share = 100 * done / total if total else 0
    state = "done" if done >= total else _left(look) if look.alive else "stopped"
    name, family = look.workdir.name, str(look.config.get("family", ""))
    data = look.config.get("data", {})
    shape = "x".join(map(str, data.get("shape", ())))
    facts = [family, f"{data.get('source', '')} {shape}", f"step {done:,} of {total:,}", state]
    speed = _last(look, "time/images_per_second")
    if speed is not None:
        facts.append(f"{speed:,.0f} images/s")
    parts = [
        f"<h1>{_(name)}</h1><div class=soft>{_(' · '.join(facts))}</div>",
        f'<div class=bar><div style="width:{share:.1f}%"></div></div>',
        "".join(_slides(kind, items) for kind, items in look.pictures.items()),
        "<h2>Curves</h2>" + "".join(_curve(n, {"": points}) for n, points in look.curves.items()),
        _evaluation(look),
        _lives(look),
        _next(look, command),
        _config(look),
    ]
    return _whole(f"{name} · {family}", parts, reload=look.alive)


def comparison_page(looks: Sequence[Look]) -> str:
    """Write the page of several runs: curves over one another, last pictures side by side.

    Args:
        looks: at the runs; of equal seeds samples are of the same noise.
    """
    names = _names(looks)
    key = "".join(
        f'<div><span class=dot style="background:{_color(i)}"></span><b>{_(name)}</b> '
        f"<span class=soft>{_(str(look.config.get('family', '')))}, step {look.steps[0]:,}, seed "
        f"{look.config.get('seed', 0)}</span></div>"
        for i, (name, look) in enumerate(zip(names, looks, strict=True))
    )
    kinds = list(dict.fromkeys(kind for look in looks for kind in look.pictures))
    pictures = "".join(
        f"<h2>{_(kind)}</h2>"
        + "".join(
            _slides(name, look.pictures[kind])
            for name, look in zip(names, looks, strict=True)
            if kind in look.pictures
        )
        for kind in kinds
    )
    curves = list(dict.fromkeys(name for look in looks for name in look.curves))
    drawn = "".join(
        _curve(
            curve,
            {
                name: look.curves[curve]
                for name, look in zip(names, looks, strict=True)
                if curve in look.curves
            },
            [i for i, look in enumerate(looks) if curve in look.curves],
        )
        for curve in curves
    )
    rows = list(dict.fromkeys(field for look in looks for field in look.changed))
    table = _table(
        ["field", *names],
        [[field, *(_value(flatten(look.config).get(field)) for look in looks)] for field in rows],
        changed=lambda row: len(set(row[1:])) > 1,
    )
    measures = list(dict.fromkeys(m for look in looks for m in _newest(look)))
    results = _table(
        ["measure", *names],
        [[m, *(_value(_newest(look).get(m)) for look in looks)] for m in measures],
        changed=lambda row: False,
    )
    parts = [
        f"<h1>{_(' and '.join(names) if len(names) < 3 else f'{len(names)} runs')}</h1>{key}",
        pictures,
        f"<h2>Curves</h2>{drawn}",
        f"<h2>Evaluation</h2>{results}" if measures else "",
        f"<h2>What they were told</h2>{table}",
    ]
    return _whole("comparison", parts, reload=any(look.alive for look in looks))


def _(text: str) -> str:
    return html.escape(text)


def _names(looks: Sequence[Look]) -> list[str]:
    names = [look.workdir.name for look in looks]
    return names if len(set(names)) == len(names) else [str(look.workdir) for look in looks]


def _color(number: int) -> str:
    return _COLORS[number % len(_COLORS)]


def _whole(title: str, parts: Sequence[str], *, reload: bool) -> str:
    again = "<meta http-equiv=refresh content=30>" if reload else ""
    return (
        '<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content="width='
        f'device-width,initial-scale=1">{again}<link rel=icon href="data:,"><title>{_(title)}'
        f"</title><style>{_STYLE}</style><body>{''.join(parts)}<script>{_SCRIPT}</script></html>\n"
    )


def _last(look: Look, name: str) -> float | None:
    points = look.curves.get(name)
    return points[-1][1] if points else None


def _left(look: Look) -> str:
    if not look.rate:
        return "running"
    seconds = (look.steps[1] - look.steps[0]) / look.rate
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"


def _slides(kind: str, items: Sequence[tuple[int, str]]) -> str:
    last = len(items) - 1
    frames = "".join(
        f'<img data-step="{step}" src="{url}" alt="{_(kind)} of step {step}"'
        f"{'' if i == last else ' hidden'}>"
        for i, (step, url) in enumerate(items)
    )
    slider = f"<input type=range min=0 max={last} value={last} aria-label=step>" if last else ""
    return (
        f"<figure class=pic><figcaption>{_(kind)}, step <b>{items[last][0]}</b></figcaption>"
        f"{frames}{slider}</figure>"
    )


def _curve(
    name: str,
    runs: Mapping[str, list[tuple[int, float]]],
    colors: Sequence[int] = (0,),
) -> str:
    """Draw a curve of each run, with its numbers for whoever points at it."""
    values = [y for points in runs.values() for _step, y in points]
    steps = [x for points in runs.values() for x, _y in points]
    x0, x1, y0, y1 = min(steps), max(steps), min(values), max(values)
    log = y0 > 0 and y1 / y0 > 50
    y0, y1 = (math.log10(y0), math.log10(y1)) if log else (y0, y1)
    span = (y1 - y0) or 1.0

    def place(x: float, y: float) -> str:
        y = math.log10(y) if log else y
        across = _LEFT + (x - x0) / max(1, x1 - x0) * (_WIDTH - _LEFT - 8)
        return f"{across:.1f},{8 + (y1 - y) / span * (_HEIGHT - _BELOW - 12):.1f}"

    lines = "".join(
        f'<polyline fill="none" stroke="{_color(color)}" stroke-width="1.8" points="'
        f'{" ".join(place(x, y) for x, y in points)}"/>'
        for color, points in zip(colors, runs.values(), strict=True)
    )
    for color, points in zip(colors, runs.values(), strict=True):
        across, down = place(*points[-1]).split(",")
        lines += f'<circle cx="{across}" cy="{down}" r="3" fill="{_color(color)}"/>'
    top, low = (f"{10**y if log else y:.4g}" for y in (y1, y0))
    data = {"w": _WIDTH, "l": _LEFT, "x0": x0, "x1": x1, "runs": list(runs.items())}
    shown = ", ".join(f"{points[-1][1]:.5g}" for points in runs.values())
    return (
        f"<figure class=curve data-curve='{_(json.dumps(data))}'><figcaption>{_(name)} "
        f"<b>{shown}</b>{' (logarithmic)' if log else ''}</figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role=img aria-label="{_(name)}">{lines}'
        f'<line y1=4 y2={_HEIGHT - _BELOW} stroke="currentColor" stroke-opacity=".4" '
        f'style="display:none"/><text x=2 y=14>{top}</text>'
        f"<text x=2 y={_HEIGHT - _BELOW}>{low}</text><text x={_LEFT} y={_HEIGHT - 4}>{x0:,}</text>"
        f"<text x={_WIDTH - 8} y={_HEIGHT - 4} text-anchor=end>{x1:,}</text></svg>"
        "<div class=tip></div></figure>"
    )


def _value(x: Any) -> str:
    if isinstance(x, float):
        return f"{x:.6g}"
    return "" if x is None else x if isinstance(x, str) else json.dumps(x)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], changed: Any) -> str:
    top = "".join(f"<th>{_(x)}</th>" for x in head)
    body = "".join(
        f"<tr{' class=changed' if changed(row) else ''}>"
        + "".join(f"<td>{_(x)}</td>" for x in row)
        + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><tr>{top}</tr>{body}</table></div>"


def _newest(look: Look) -> Mapping[str, Any]:
    return list(look.evaluations.values())[-1] if look.evaluations else {}


def _evaluation(look: Look) -> str:
    if not look.evaluations:
        return ""
    names = list(look.evaluations)
    measures = list(dict.fromkeys(m for found in look.evaluations.values() for m in found))
    rows = [
        [measure, *(_value(look.evaluations[name].get(measure)) for name in names)]
        for measure in measures
    ]
    return "<h2>Evaluation</h2>" + _table(["measure", *names], rows, changed=lambda row: False)


def _lives(look: Look) -> str:
    if not look.lives:
        return ""
    head = list(dict.fromkeys(name for life in look.lives for name in life))
    rows = [[_value(life.get(name)) for name in head] for life in look.lives]
    return "<h2>Lives</h2>" + _table(head, rows, changed=lambda row: False)


def _next(look: Look, command: str) -> str:
    place = look.workdir
    lines = (
        [] if look.steps[0] >= look.steps[1] else [f"gen-jax train --workdir {place}  # goes on"]
    )
    lines += [
        f"gen-jax sample --workdir {place} --num 64 --out samples.png",
        f"gen-jax evaluate --workdir {place}",
        f'python -c "import gen_jax; print(gen_jax.load({str(place)!r}))"',
    ]
    told = f"<p class=soft>{_(command)}</p>" if command else ""
    return f"<h2>What to type next</h2>{told}<pre>{_(chr(10).join(lines))}</pre>"


def _config(look: Look) -> str:
    values = flatten(look.config)
    rows = [[name, _value(value)] for name, value in sorted(values.items())]
    table = _table(["field", "value"], rows, changed=lambda row: row[0] in look.changed)
    num = len(look.changed)
    return (
        f"<details><summary><b>Config</b>: {num} of {len(values)} fields differ from the family's "
        f"defaults, marked</summary>{table}</details>"
    )

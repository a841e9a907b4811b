"""The kept runs as one page: plots by matplotlib, beside each when and where it was measured.

Drawn from `results/` and from nowhere else; what was not measured yet says how to. The page holds its pictures itself
(SVG) and loads nothing.
"""

from __future__ import annotations

import html
import io
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks import measure
from benchmarks.measure import Figures

BLIND = (
    "Worker, broker, sender and reader share one machine and its cores: there is no network between them, and a real "
    "cluster has one.",
    "The broker is a single node: nothing is replicated. acks=all waits for one disk cache, not for three machines.",
    "One machine, one kind of processor. Absolute figures move by a factor of two with the machine's load; only what "
    "was measured in one sitting can be compared.",
    "The workload is made up, from a fixed seed. Your messages, their size and how much of them changes decide more "
    "than the system does: see the scaling curves.",
    "The job was written by us for the other systems, as their documentation has it, with their own defaults. Their "
    "users may know better ones.",
    "Most of the other systems deliver at least once here, and none of them puts a digest, an epoch or the event's "
    "identity into its patches: they do less.",
    "None of this says what happens after a kill, a cut or a restart: the tests under tests/faults do.",
)
"""What the numbers do not show: the page opens with it."""
SYSTEMS = "side_by_side.jsonl"
HUES = ("#1b6ca8", "#d1495b", "#66a182", "#edae49", "#5e548e", "#8d99ae")
WIDTH_INCHES, HEIGHT_INCHES = 9.0, 4.2
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2 } h2 { margin-top: 2.5rem }
.blind { background: #fff6e0; border-left: 4px solid #edae49; padding: .5rem 1rem }
.source { color: #666; font-size: 13px } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: 13px } td, th { border-bottom: 1px solid #ddd; padding: .2rem .6rem;
text-align: right } td:first-child, th:first-child { text-align: left }
"""


def newest(runs: Sequence[Figures]) -> list[Figures]:
    """The runs of the last sitting: those of the commit that was measured last."""
    return [run for run in runs if run["commit"] == runs[-1]["commit"]] if runs else []


def of(runs: Iterable[Figures], benchmark: str) -> list[Figures]:
    """The newest kept runs of one benchmark."""
    return newest([run for run in runs if run["benchmark"] == benchmark])


def page(runs: Sequence[Figures], systems: Sequence[Figures]) -> str:
    """The whole page as HTML."""
    parts = [
        ("Throughput by system", "compare", newest(systems), throughput),
        ("Where an event's time goes", "headline", of(runs, "headline")[-1:], stages),
        ("Latency by load", "latency", of(runs, "latency")[-1:], latency),
        ("Cost per event as things grow", "scaling", of(runs, "scaling")[-1:], scaling),
        ("Bytes per event", "compression", of(runs, "compression")[-1:], sizes),
    ]
    out = ["<h1>What was measured, and what was not</h1>", '<div class="blind"><p>These numbers do not show:</p><ul>']
    out += [f"<li>{html.escape(line)}</li>" for line in BLIND]
    out.append("</ul></div>")
    for title, name, found, draw in parts:
        out.append(f"<h2>{title}</h2>")
        if not found:
            out.append(f"<p>Not measured yet: <code>streams bench {name} --save</code>.</p>")
            continue
        out.append(f'<p class="source">{html.escape(source(found[-1]))}</p>')
        out.append(draw(found))
    out.append("<h2>Every run that was kept</h2>")
    out.append(listing([*runs, *systems]))
    body = "\n".join(out)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Benchmarks</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def source(run: Figures) -> str:
    """When, where and under which conditions."""
    machine = f" {measure.described(run['machine'])}." if "machine" in run else ""
    return f"Measured {run['date']} at {run['commit']}.{machine} Conditions: {run['conditions']}."


def listing(runs: Sequence[Figures]) -> str:
    """A line for each run."""
    rows = ["<table><tr><th>run</th><th>date</th><th>commit</th><th>events/s</th><th>CPU µs per event</th></tr>"]
    for run in runs:
        what = " ".join(str(run[name]) for name in ("benchmark", "system", "guarantee", "state") if name in run)
        rate, cpu = (_middle(run.get(name)) for name in ("events_per_second", "cpu_us_per_event"))
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in (what, run["date"], run["commit"], rate, cpu))
        rows.append(f"<tr>{cells}</tr>")
    return "\n".join([*rows, "</table>"])


def _middle(value: object) -> str:
    if isinstance(value, dict):
        value = value["median"]
    return measure.number(value) if isinstance(value, int | float) else ""


# -- plots ------------------------------------------------------------------------------------------------------------


def _drawn(draw: Callable[[Any], None], rows: int = 1, columns: int = 1) -> str:
    """What `draw` puts on a figure, as SVG."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    # Text stays text, and the same figures give the same bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "streams", "font.size": 9}):
        figure, axes = pyplot.subplots(
            rows, columns, figsize=(WIDTH_INCHES, HEIGHT_INCHES * max(1, rows * 0.75)), squeeze=False
        )
        draw([each for row in axes for each in row])
        for each in figure.axes:
            each.spines[["top", "right"]].set_visible(False)
        figure.tight_layout()
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def throughput(runs: Sequence[Figures]) -> str:
    """A bar for each system: median events/s, a line from the lowest to the highest, its CPU beside it."""
    systems: dict[str, list[Figures]] = {}
    for run in runs:
        if run["verified"]:
            systems.setdefault(run["system"], []).append(run)

    def draw(axes: Any) -> None:
        names = list(systems)[::-1]
        for at, name in enumerate(names):
            rates = sorted(run["events_per_second"] for run in systems[name])
            cpu = statistics.median(run["cpu_us_per_event"] for run in systems[name])
            middle = statistics.median(rates)
            axes[0].barh(at, middle, color=HUES[0] if name == next(iter(systems)) else HUES[5])
            axes[0].plot([rates[0], rates[-1]], [at, at], color="#222", linewidth=1.5)
            axes[0].text(rates[-1], at, f"  {middle:,.0f}/s, {cpu:.1f} µs CPU", va="center")
        axes[0].set_yticks(range(len(names)), [name if len(name) < 44 else f"{name[:42]}…" for name in names])
        axes[0].set_xlabel("events/s, one worker process (median; line: lowest to highest round)")
        axes[0].margins(x=0.3)

    return _drawn(draw)


def stages(runs: Sequence[Figures]) -> str:
    """µs per event of each stage."""
    parts = runs[-1]["stages_us_per_event"]

    def draw(axes: Any) -> None:
        names = list(parts)[::-1]
        axes[0].barh(names, [parts[name]["median"] for name in names], color=HUES[0])
        axes[0].set_xlabel("µs per event, one stage after the other in one thread (embedded log)")

    return _drawn(draw)


def latency(runs: Sequence[Figures]) -> str:
    """p50, p99 and p99.9 by load, for each guarantee."""
    curves = runs[-1]["curves"]

    def draw(axes: Any) -> None:
        for place, curve in zip(axes, curves, strict=True):
            cases = [case for case in curve["cases"] if "p50_ms" in case]
            for name, label, hue in (
                ("p50_ms", "p50", HUES[2]),
                ("p99_ms", "p99", HUES[0]),
                ("p999_ms", "p99.9", HUES[1]),
            ):
                loads = [case["load"] for case in cases]
                place.plot(loads, [case[name]["median"] for case in cases], color=hue, label=label, marker=".")
                place.fill_between(
                    loads, [case[name]["minimum"] for case in cases], [case[name]["maximum"] for case in cases],
                    color=hue, alpha=0.15, linewidth=0,
                )  # fmt: skip
            place.axvline(curve["peak"], color="#222", linestyle=":", linewidth=1)
            place.set_yscale("log")
            place.set_title(f"{curve['guarantee']}, interval {curve['interval_ms']}")
            place.set_xlabel("events/s offered (dots: the highest load that held)")
            place.set_ylabel("ms from due to read")
            place.legend(frameon=False)

    return _drawn(draw, rows=len(curves))


def scaling(runs: Sequence[Figures]) -> str:
    """CPU µs per event along each dimension."""
    cases = runs[-1]["cases"]
    dimensions = list(dict.fromkeys(case["dimension"] for case in cases))
    columns = 2
    rows = -(-len(dimensions) // columns)

    def draw(axes: Any) -> None:
        for place, dimension in zip(axes, dimensions, strict=False):
            found = [case for case in cases if case["dimension"] == dimension]
            values = [case["value"] for case in found]
            for name, label, hue in (("cpu_us_per_event", "CPU", HUES[0]), ("us_per_event", "wall", HUES[3])):
                place.plot(values, [case[name]["median"] for case in found], marker=".", label=label, color=hue)
                place.fill_between(
                    values, [case[name]["minimum"] for case in found], [case[name]["maximum"] for case in found],
                    alpha=0.15, color=hue, linewidth=0,
                )  # fmt: skip
            if max(values) >= 1000:
                place.set_xscale("log")
            place.set_ylim(bottom=0)
            place.set_title(dimension)
            place.set_ylabel("µs per event")
            place.legend(frameon=False)
        for place in axes[len(dimensions) :]:
            place.set_visible(False)

    return _drawn(draw, rows=rows, columns=columns)


def sizes(runs: Sequence[Figures]) -> str:
    """Bytes per event of each form, plain and compressed, a plot per schema."""
    cases = runs[-1]["cases"]
    schemas = list(dict.fromkeys(case["schema"] for case in cases))
    ways = ("plain", "zstd", "zstd, dictionary", "zstd, batch")

    def draw(axes: Any) -> None:
        for place, schema in zip(axes, schemas, strict=True):
            found = [case for case in cases if case["schema"] == schema]
            for number, way in enumerate(ways):
                values = [case["bytes"] if way == "plain" else case[way]["bytes"] for case in found]
                width = 0.8 / len(ways)
                place.bar(
                    [at + number * width for at in range(len(found))], values, width, label=way, color=HUES[number]
                )
            place.set_xticks([at + 0.3 for at in range(len(found))], [case["form"] for case in found])
            place.set_ylabel("bytes per event")
            place.set_title(schema)
            place.legend(frameon=False)

    return _drawn(draw, rows=len(schemas))

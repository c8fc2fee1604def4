"""The plots of a report as Vega-Lite specifications, made by Altair.

Names of classes and columns come from untrusted files. They are values of data here, and titles of marks; never names
of fields or parts of expressions, which a browser would evaluate.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from gpusoftmax._typing import Array
from gpusoftmax.plots.sweeps import LARGE, score_label
from gpusoftmax.reliability import ReliabilityCurve

Spec = dict[str, Any]

HEIGHT = 280  # pixels
MOST_IN_MATRIX = 40  # classes of a confusion matrix that is drawn
MOST_WITH_COUNTS = 20  # classes of one whose counts are written into its cells


def _altair() -> Any:
    """Altair, without its types, by which a name such as "a:Q" is no shorthand; imported late, as it takes 0.5 s."""
    import altair

    return altair


def _finished(chart: Any, description: str, height: int = HEIGHT) -> Spec:
    """The specification of a chart as wide as its place on the page."""
    properties = {"width": "container", "height": height, "description": description}
    spec: Spec = chart.properties(**properties).to_dict(validate=True)
    return spec


def _plain(value: Any) -> float | None:
    """A number for JSON; None for NaN and infinity."""
    return float(value) if value is not None and math.isfinite(value) else None


def curves(history: list[Any], name: str) -> Spec:
    """Loss or accuracy after each pass, on the training rows and on validation rows."""
    alt = _altair()
    fields = {f"training {name}": name, f"validation {name}": f"validation_{name}"}
    if name == "loss":
        fields["training loss with penalty"] = "objective"
    points = [
        {"passes": record.passes, "value": value, "curve": label}
        for label, field in fields.items()
        for record in history
        if (value := _plain(getattr(record, field))) is not None
    ]
    shape: dict[str, Any] = {"format": ".1%"} if name == "accuracy" else {}
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_line(point=len(history) <= 60)
        .encode(
            x=alt.X("passes:Q", title="passes over the training rows"),
            y=alt.Y("value:Q", title=name, scale=alt.Scale(zero=False), axis=alt.Axis(**shape)),
            color=alt.Color("curve:N", title=None, legend=alt.Legend(orient="top", labelLimit=0)),
            strokeDash=alt.StrokeDash("curve:N", title=None),
            tooltip=[
                alt.Tooltip("curve:N"),
                alt.Tooltip("passes:Q", format=".1f"),
                alt.Tooltip("value:Q", format=".2%" if name == "accuracy" else ".5f"),
            ],
        )
    )
    first, last = points[0], [point for point in points if point["curve"] == points[0]["curve"]][-1]
    return _finished(
        chart, f"{first['curve']} from {first['value']:.4g} to {last['value']:.4g} in {last['passes']:.4g} passes"
    )


def choice(result: Any, name: str) -> Spec:
    """The scores of a sweep over the one number that varies, with standard errors and the choice."""
    alt = _altair()
    means, errors, best = result.mean_scores_, result.standard_errors_, result.best_index_
    points: list[dict[str, Any]] = [
        {
            "x": float(one[name]),
            "score": float(mean),
            "low": float(mean - error) if np.isfinite(error) else float(mean),
            "high": float(mean + error) if np.isfinite(error) else float(mean),
            "chosen": "chosen" if k == best else "tried",
        }
        for k, (one, mean, error) in enumerate(zip(result.candidates, means, errors, strict=True))
        if np.isfinite([mean, one[name]]).all()
    ]
    xs = [point["x"] for point in points]
    logarithmic = min(xs) > 0 and max(xs) > LARGE * min(xs)
    x = alt.X("x:Q", title=name, scale=alt.Scale(type="log" if logarithmic else "linear"))
    y = alt.Y("score:Q", title=score_in_words(result), scale=alt.Scale(zero=False))
    base = alt.Chart(alt.Data(values=points))
    tooltip = [
        alt.Tooltip("x:Q", title=name, format=".4g"),
        alt.Tooltip("score:Q", format=".5f"),
        alt.Tooltip("low:Q", title="minus a standard error", format=".5f"),
        alt.Tooltip("high:Q", title="plus a standard error", format=".5f"),
    ]
    layers = [
        base.mark_line(opacity=0.5).encode(x=x, y=y),
        base.mark_rule().encode(x=x, y=alt.Y("low:Q", title=score_in_words(result)), y2="high:Q"),
        base.mark_point(filled=True, opacity=1).encode(
            x=x,
            y=y,
            color=alt.Color(
                "chosen:N",
                title=None,
                scale=alt.Scale(domain=["tried", "chosen"], range=["#4c78a8", "#e45756"]),
                legend=alt.Legend(orient="top"),
            ),
            shape=alt.Shape("chosen:N", title=None, scale=alt.Scale(domain=["tried", "chosen"])),
            tooltip=tooltip,
        ),
    ]
    if result.n_splits_ > 1:
        top = int(np.nanargmax(means))
        within = float(means[top] - errors[top])
        rule = alt.Chart(alt.Data(values=[{"y": within, "what": "best minus one standard error"}]))
        layers.append(rule.mark_rule(strokeDash=[4, 4]).encode(y="y:Q", tooltip=[alt.Tooltip("what:N", title=" ")]))
    chosen = result.candidates[best][name]
    words = f"{score_in_words(result)} for {len(points)} values of {name}; {name} = {chosen:.4g} was chosen"
    return _finished(alt.layer(*layers), words)


def score_in_words(result: Any) -> str:
    """The name of a sweep's score, on the side of an axis."""
    score = score_label(result)
    return f"{score} (mean of {result.n_splits_} folds)" if result.n_splits_ > 1 else f"{score} on held-out rows"


def scores_over_two(result: Any, names: list[str]) -> Spec:
    """The scores of a sweep over two numbers, as a map."""
    alt = _altair()
    best = result.best_index_
    cells = [
        {"x": one[names[0]], "y": one[names[1]], "score": _plain(mean), "chosen": k == best}
        for k, (one, mean) in enumerate(zip(result.candidates, result.mean_scores_, strict=True))
    ]
    base = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X("x:O", title=names[0], axis=alt.Axis(format=".3g")),
        y=alt.Y("y:O", title=names[1], sort="descending", axis=alt.Axis(format=".3g")),
        tooltip=[
            alt.Tooltip("x:Q", title=names[0], format=".4g"),
            alt.Tooltip("y:Q", title=names[1], format=".4g"),
            alt.Tooltip("score:Q", format=".5f"),
        ],
    )
    colour = alt.Color("score:Q", title=result.scoring, scale=alt.Scale(scheme="viridis"))
    ring = base.transform_filter("datum.chosen").mark_point(size=300, strokeWidth=3, color="white", filled=False)
    words = f"{score_in_words(result)} for values of {names[0]} and {names[1]}"
    return _finished(alt.layer(base.mark_rect().encode(color=colour), ring), words)


def confusion(counts: Array, names: list[str]) -> Spec:
    """The confusion matrix, coloured by the share of each true class; numbers of classes tell equal names apart."""
    alt = _altair()
    shown = [f"{j} {name}" if names.count(name) > 1 else name for j, name in enumerate(names)]
    totals = counts.sum(axis=1)
    cells = [
        {
            "label": shown[i],
            "predicted": shown[j],
            "count": int(counts[i, j]),
            "share": float(counts[i, j] / totals[i]) if totals[i] else 0.0,
        }
        for i in range(len(names))
        for j in range(len(names))
    ]
    sides = {"sort": shown, "axis": alt.Axis(labelLimit=110)}
    base = alt.Chart(alt.Data(values=cells)).encode(
        x=alt.X("predicted:N", title="predicted", **sides),
        y=alt.Y("label:N", title="true class", **sides),
        tooltip=[
            alt.Tooltip("label:N", title="true class"),
            alt.Tooltip("predicted:N"),
            alt.Tooltip("count:Q", title="rows"),
            alt.Tooltip("share:Q", title="share of the true class", format=".1%"),
        ],
    )
    colour = alt.Color(
        "share:Q", title="share", scale=alt.Scale(scheme="blues", domain=[0, 1]), legend=alt.Legend(format=".0%")
    )
    layers = [base.mark_rect().encode(color=colour)]
    if len(names) <= MOST_WITH_COUNTS:
        dark = alt.condition("datum.share > 0.5", alt.value("white"), alt.value("black"))
        some = base.transform_filter("datum.count > 0")
        layers.append(some.mark_text(fontSize=10).encode(text="count:Q", color=dark))
    right = int(np.trace(counts))
    words = f"confusion matrix of {len(names)} classes: {right} of {int(counts.sum())} rows on the diagonal"
    return _finished(alt.layer(*layers), words, max(HEIGHT, 22 * len(names)))


def reliability(curve: ReliabilityCurve) -> Spec:
    """Accuracy by confidence, over the share of rows in each bin."""
    alt = _altair()
    total, edges = curve.counts.sum(), curve.edges
    bins = [
        {
            "from": float(edges[i]),
            "to": float(edges[i + 1]),
            "rows": int(curve.counts[i]),
            "share": float(curve.counts[i] / total),
            "confidence": _plain(curve.confidence[i]),
            "accuracy": _plain(curve.accuracy[i]),
        }
        for i in range(len(curve.counts))
        if curve.counts[i]
    ]
    unit = alt.Scale(domain=[0, 1])
    percent = alt.Axis(format=".0%")
    tooltip = [
        alt.Tooltip("confidence:Q", title="mean confidence", format=".1%"),
        alt.Tooltip("accuracy:Q", format=".1%"),
        alt.Tooltip("rows:Q"),
    ]
    base = alt.Chart(alt.Data(values=bins))
    diagonal = alt.Chart(alt.Data(values=[{"at": 0}, {"at": 1}]))
    chart = alt.layer(
        base.mark_rect(opacity=0.25).encode(
            x=alt.X("from:Q", scale=unit, axis=percent, title="confidence (probability of the prediction)"),
            x2="to:Q",
            y=alt.Y("share:Q", scale=unit, axis=percent, title="accuracy; bars: share of rows"),
            y2=alt.datum(0),
            tooltip=tooltip,
        ),
        diagonal.mark_line(strokeDash=[4, 4], opacity=0.6).encode(x="at:Q", y="at:Q"),
        base.mark_line(point=True, color="#e45756").encode(x="confidence:Q", y="accuracy:Q", tooltip=tooltip),
    )
    return _finished(chart, f"reliability diagram; expected calibration error {curve.error:.2%}")

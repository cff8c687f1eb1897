"""A wall of cards, one for each claim, as HTML that is a plain list where no script runs."""

from html import escape

import charts

from unifylens.evidence.ledger import CLAIMS
from unifylens.evidence.records import Record, shipped_records

WIDE, HIGH, EDGE = 240, 26, 6


def wall() -> str:
    """All claims, in the ledger's order, under what chooses among them."""
    records = shipped_records()
    verdicts = [name for name in ("held", "held in part", "not held") if any(r.verdict == name for r in records)]
    options = f'<option value="">all ({len(records)})</option>' + "".join(
        f'<option value="{name}">{name} ({sum(r.verdict == name for r in records)})</option>' for name in verdicts
    )
    return charts.raw(
        '<form class="see-filter" role="search" hidden>'
        f'<label>Verdict <select name="verdict">{options}</select></label> '
        '<label>Words <input type="search" name="words" placeholder="such as transfer, edit, C10"></label> '
        '<span role="status"></span></form>\n'
        '<ul class="see-wall">\n' + "\n".join(map(card, records)) + "\n</ul>"
    )


def card(record: Record) -> str:
    """One claim: what it says, what was found, what was needed, how far it was tried, and where."""
    claim, words = CLAIMS[record.id], escape
    part = f" {words(record.range)}" if record.range else ""
    attempts = f"{len(record.attempts)} attempt{'s' * (len(record.attempts) != 1)}"
    return (
        f'<li class="see-card" data-verdict="{record.verdict}">'
        f'<h2 id="card-{record.id.lower()}">{record.id} <span class="see-verdict">{record.verdict}</span></h2>'
        f"<p>{words(record.statement)}</p>"
        + (f'<p class="see-small"><b>Held in part:</b>{part}</p>' if part else "")
        + f'<p class="see-small">{words(claim.effect_name.strip())}: <b>{record.interval}</b><br>'
        f"needed: {words(record.threshold)}</p>" + picture(record) + f'<p class="see-small">{how_far(record)}</p>'
        f'<p class="see-small">{record.seeds} seeds · <a href="../claims.html#{record.id.lower()}">{attempts}</a>'
        f' · <a href="../notebooks/{record.notebook}.html">notebook {record.notebook[:2]}</a></p></li>'
    )


def how_far(record: Record) -> str:
    """In how many of the dishes drawn at random the claim's test passes, in a sentence."""
    found = record.how_far
    if not found:
        return "In random dishes: not measured."
    passed = round(found["share"] * found["dishes"])
    unasked = f"; {found['untestable']} could not be asked" if found["untestable"] else ""
    interval = f"{found['share']:.2f} [{found['ci_low']:.2f}, {found['ci_high']:.2f}]"
    return f"In random dishes: passes in {passed} of {found['dishes']}, a share of {interval}{unasked}."


def picture(record: Record) -> str:
    """The effect with its interval, zero as a thin line and the threshold as a dashed one, on a scale of its own."""
    threshold = CLAIMS[record.id].threshold
    marks = (0.0, threshold, record.ci_low, record.ci_high)
    low, high = min(marks), max(marks)

    def at(value: float) -> str:
        return f"{EDGE + (WIDE - 2 * EDGE) * (value - low) / (high - low):.1f}"

    middle = HIGH / 2
    said = f"{record.interval}; threshold {threshold:g}"
    return (
        f'<svg viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{said}"><title>{said}</title>'
        f'<line class="zero" x1="{at(0)}" x2="{at(0)}" y1="0" y2="{HIGH}"/>'
        f'<line class="needed" x1="{at(threshold)}" x2="{at(threshold)}" y1="0" y2="{HIGH}"/>'
        f'<line class="found" x1="{at(record.ci_low)}" x2="{at(record.ci_high)}" y1="{middle}" y2="{middle}"/>'
        f'<circle cx="{at(record.effect)}" cy="{middle}" r="4"/></svg>'
    )

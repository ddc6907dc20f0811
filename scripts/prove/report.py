"""Tables of the results. Imports nothing heavy."""

from collections.abc import Mapping
from typing import Any

NOT_FIGURES = {"case", "result", "note"}


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def _table(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _case_rows(part: Mapping[str, Any]) -> list[list[str]]:
    """Return a header and a row for each case; a case has "-" where it lacks a figure."""
    columns = list(dict.fromkeys(key for case in part["cases"] for key in case if key not in NOT_FIGURES))
    rows = [["case", "result", *columns, ""]]
    for case in part["cases"]:
        figures = [_text(case.get(column)) for column in columns]
        rows.append([case["case"], case["result"], *figures, case.get("note", "")])
    return rows


def part_table(part: Mapping[str, Any]) -> str:
    """Return the result of a part and the figures of its cases."""
    note = f": {part['note']}" if part.get("note") else ""
    lines = [f"{part['part']} {part['result']} in {part['seconds']:.0f} s{note}"]
    if part["cases"]:
        lines.append(_table(_case_rows(part)))
    if part.get("output"):
        lines += ["the end of its output:", *part["output"].rstrip().splitlines()[-15:]]
    return "\n  ".join("\n".join(lines).splitlines()) + "\n"


def final_table(record: Mapping[str, Any]) -> str:
    """Return a line for each case of every part, with the machine above and the result below."""
    machine = record["machine"]
    lines = [
        f"{machine.get('device', 'unknown device')}, driver {machine.get('driver') or '-'}, torch {machine.get('torch')}, "
        f"CUDA {machine.get('CUDA') or '-'}, commit {record['commit'] or 'unknown'}"
        + (", small models (--tiny)" if record["tiny"] else ""),
        "",
    ]
    rows = [["part", "case", "result", "figures"]]
    for part in record["parts"]:
        if part["part"] == "machine" and part["result"] == "passed":
            continue
        if part.get("note") or not part["cases"]:
            rows.append([part["part"], "", part["result"], part.get("note", "")])
        for case in part["cases"]:
            figures = ", ".join(
                f"{key} {_text(case[key])}" for key in case if key not in NOT_FIGURES and case[key] is not None
            )
            rows.append([part["part"], case["case"], case["result"], case.get("note") or figures])
    counts = [
        (sum(part["result"] == kind for part in record["parts"]), kind) for kind in ("passed", "failed", "skipped")
    ]
    summary = ", ".join(f"{count} {kind}" for count, kind in counts if count)
    return "\n".join([*lines, _table(rows), "", f"{summary} in {record.get('seconds', 0):.0f} s"])

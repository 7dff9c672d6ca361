"""Writes the command reference in README.md from the commands themselves, so that it stays true.

python -m cifarkit.cli.reference README.md            write it
python -m cifarkit.cli.reference --check README.md    fail if it is not current
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer

from cifarkit import results
from cifarkit.cli import app

BEGIN, END = "<!-- reference: begin (make docs) -->", "<!-- reference: end -->"

RECORDS: dict[str, type] = {
    "data download": results.DataPath,
    "data verify": results.VerifyReport,
    "data stats": results.DataStats,
    "data preview": results.PreviewResult,
    "summary": results.ModelTable,
    "recipes": results.RecipeTable,
    "lr-find": results.LrCurve,
    "fit": results.FitResult,
    "fit --runs N": results.FitRuns,
    "eval": results.Evaluation,
    "misclassified": results.Misclassified,
    "gradcam": results.CamResult,
    "bench": results.BenchResult,
    "runs list": results.RunTable,
    "runs sync": results.SyncTable,
    "doctor": results.Diagnosis,
}


def render() -> str:
    """The reference as Markdown: every command with its options, defaults, variables and JSON fields."""
    parts = []
    for name, command in _commands(typer.main.get_command(app)):
        parts.append(f"### `cifarkit {name}`\n\n{_first_paragraph(command.help)}\n")
        usage = " ".join(_argument(p) for p in command.params if p.param_type_name == "argument")
        parts.append(f"```\ncifarkit {name}{' ' + usage if usage else ''} [OPTIONS]\n```\n")
        rows = [_row(p) for p in command.params if p.param_type_name == "option" and p.name != "help"]
        parts.append(
            "| option | meaning | default | variable |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
        for key, record in RECORDS.items():
            called, *option = key.split(" --")
            if called == name:
                flags = " ".join(f"--{flag}" for flag in (*option, "json"))
                parts.append(f"`{flags}` prints: {_fields(record)}\n")
    nested = [_record_line(record) for record in _nested()]
    parts.append("### Records inside the JSON\n\n" + "\n".join(nested) + "\n")
    return "\n".join(parts)


def _commands(group: Any, prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            found += _commands(command, f"{prefix}{name} ")
        else:
            found.append((prefix + name, command))
    return found


def _argument(parameter: Any) -> str:
    name = parameter.name.upper() + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _row(parameter: Any) -> str:
    flags = ", ".join(f"`{flag}`" for flag in parameter.opts)
    variable = f"`{parameter.envvar}`" if isinstance(parameter.envvar, str) else ""
    shown = parameter.show_default
    hidden = parameter.default is None or parameter.default is False
    default = shown if isinstance(shown, str) else "" if hidden else parameter.default
    return f"| {flags} | {parameter.help or ''} | {_escape(str(default))} | {variable} |"


def _escape(text: str) -> str:
    return text.replace("|", "\\|")


def _first_paragraph(text: str | None) -> str:
    return " ".join((text or "").strip().partition("\n\n")[0].split())


def _fields(record: type) -> str:
    hints = get_type_hints(record)
    return ", ".join(f"`{f.name}` ({_type_name(hints[f.name])})" for f in dataclasses.fields(record))


def _record_line(record: type) -> str:
    return f"- **{record.__name__}**: {_fields(record)}"


def _type_name(hint: Any) -> str:
    """A type as JSON says it."""
    if dataclasses.is_dataclass(hint):
        return str(getattr(hint, "__name__", hint))
    arguments = [a for a in get_args(hint) if a is not Ellipsis]
    if get_origin(hint) is tuple:
        return f"list of {_type_name(arguments[0])}"
    if get_origin(hint) is dict:
        return f"object of {_type_name(arguments[1])}"
    if type(None) in arguments:
        return " or ".join(_type_name(a) for a in arguments if a is not type(None)) + " or null"
    names = {str: "string", int: "integer", float: "number", bool: "boolean"}
    return names.get(hint, "any value")


def _nested() -> list[type]:
    """Records that occur inside those of the commands, in the order they are met."""
    found: list[type] = []

    def visit(hint: Any) -> None:
        for argument in get_args(hint):
            visit(argument)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            if hint not in found and hint not in RECORDS.values():
                found.append(hint)
            for inner in get_type_hints(hint).values():
                visit(inner)

    for record in RECORDS.values():
        visit(record)
    return found


def main(arguments: list[str]) -> int:
    check = "--check" in arguments
    path = Path(next(a for a in arguments if not a.startswith("--")))
    text = path.read_text(encoding="utf-8")
    block = f"{BEGIN}\n\n{render()}\n{END}"
    new = re.sub(re.escape(BEGIN) + ".*" + re.escape(END), lambda _: block, text, flags=re.DOTALL)
    if BEGIN not in text:
        print(f"{path} has no place for the reference: {BEGIN}", file=sys.stderr)
        return 1
    if check and new != text:
        print(f"the command reference in {path} is not current; run `make docs`", file=sys.stderr)
        return 1
    if not check:
        path.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Logs of a run: a CSV that any program reads, TensorBoard, and a plot."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from latentia.files import atomic_path


class Log:
    """Named numbers by step, in `NAME.csv` and for TensorBoard. Rows after `step` (a killed run's) are dropped."""

    def __init__(self, folder: Path, step: int, name: str = "log") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.csv"
        rows = [row for row in read_log(self.path) if row["step"] <= step] if step else []
        self.columns = list(rows[0]) if rows else []
        self.seconds = rows[-1].get("seconds", 0.0) if rows else 0.0  # of the run before it was stopped
        with atomic_path(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.columns)
            if rows:
                writer.writeheader()
                writer.writerows({**row, "step": int(row["step"])} for row in rows)
        self.board = SummaryWriter(str(folder / "tensorboard" / ("" if name == "log" else name)), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        row: dict[str, float] = {"step": step, **values}
        text = io.StringIO()
        if not self.columns:
            self.columns = list(row)
            csv.writer(text).writerow(self.columns)
        csv.DictWriter(text, self.columns, extrasaction="ignore").writerow(row)
        with self.path.open("a", newline="", encoding="utf-8") as file:
            file.write(text.getvalue())
        for name, value in values.items():
            self.board.add_scalar(name, value, step)

    def close(self) -> None:
        self.board.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a `log.csv`; empty where there is none. A half-written last row of a killed run is left out."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = []
        for row in csv.DictReader(file):
            try:
                rows.append({name: float(value) for name, value in row.items()})
            except (TypeError, ValueError):
                break
        return rows


def plot_losses(folders: Mapping[str, Path], out: Path) -> None:
    """One panel a stage that was trained here: the losses of its `log.csv` against the step, as PNG.

    Where it was validated, one more: the loss of items held out and of items learned, and of the former by σ/α.
    """
    from matplotlib.figure import Figure

    logs = {title: read_log(folder / "log.csv") for title, folder in folders.items()}
    logs |= {f"{title}, validation": read_log(folder / "validation.csv") for title, folder in folders.items()}
    logs = {title: rows for title, rows in logs.items() if rows}
    figure = Figure(figsize=(6 * max(1, len(logs)), 4), layout="constrained")
    for number, (title, rows) in enumerate(logs.items(), start=1):
        axes = figure.add_subplot(1, len(logs), number, title=title, xlabel="step", ylabel="loss", yscale="log")
        for name in [name for name in rows[0] if "loss" in name or name.startswith("at ")]:
            level = name.removeprefix("at ")
            style: dict[str, Any] = {"linestyle": ":"} if level != name else {"marker": "." if len(rows) < 30 else ""}
            label = name if level == name else f"σ/α {level}"
            axes.plot([row["step"] for row in rows], [row[name] for row in rows], label=label, **style)
        axes.legend()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)

"""The closing table shows every number on a terminal of 80 columns."""

from __future__ import annotations

from types import SimpleNamespace

from rich.console import Console

from callbacks.progress import ProgressCallback


def test_every_number_of_the_closing_table_fits_80_columns(monkeypatch):
    result = SimpleNamespace(
        name="arithmetic",
        epoch=100,
        accuracy={"mean": 0.430, "low": 0.365, "high": 0.505, "n": 200},
        gain={"mean": 0.320, "low": 0.2, "high": 0.4, "n": 200, "p": 0.0001},
        tokens_interval={"mean": 11160.2, "low": 11059.4, "high": 11261.1, "n": 200},
        tokens_gain={"mean": -1100.7, "low": -1200, "high": -1000, "n": 200, "p": 0.0001},
        metrics={},
    )
    progress = ProgressCallback()
    monkeypatch.setattr(progress, "_results", lambda: [result])
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 lives as long as the console
    console.print(progress._closing(None))
    shown = console.export_text()
    assert "\u2026" not in shown
    for number in ("0.430", "[0.365, 0.505]", "+0.320", "(0.0001)", "11160.2", "[11059.4, 11261.1]", "-1100.7"):
        assert number in shown, shown

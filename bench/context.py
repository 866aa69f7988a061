"""What every section gets: the library, the peers that are installed, how long to measure, where to report."""

import importlib
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import harness
import machine
from harness import Contestant, Plan, Summary
from report import Report

PEERS = ("numpy", "torch", "jax", "sklearn", "onnx")


@dataclass
class Context:
    threads: int
    quick: bool
    plan: Plan
    report: Report
    fo: ModuleType
    core: ModuleType
    build: dict[str, Any]
    _peers: dict[str, ModuleType | None] = field(default_factory=dict)

    @classmethod
    def create(cls, *, threads: int, quick: bool, markdown: bool) -> "Context":
        try:
            import fastopt as fo
            from fastopt._backend import core
        except ImportError as error:
            raise SystemExit(f"bench needs an installed fastopt (pip install .): {error}") from None
        fo.set_num_threads(threads)
        context = cls(threads, quick, harness.QUICK if quick else harness.FULL, Report(markdown), fo, core, dict(fo.build_info()))
        print(f"{machine.cpu_model()}, {machine.available_cores()} of {machine.installed_cores()} cores, {threads} threads")
        print(", ".join(f"{name} {version}" for name, version in machine.versions().items()))
        print(", ".join(f"{name}: {value}" for name, value in context.build.items()))
        return context

    def peer(self, name: str) -> ModuleType | None:
        """The module bench/peers_<name>.py, or None after one line when its library is not installed."""
        if name not in self._peers:
            try:
                module = importlib.import_module(f"peers_{name}")
                module.set_threads(self.threads)
            except ImportError as error:
                self.report.line(f"{name}: skipped ({error})")
                module = None
            self._peers[name] = module
        return self._peers[name]

    def peers(self, *names: str) -> dict[str, ModuleType]:
        """Those of `names` that are installed."""
        return {name: module for name in names if (module := self.peer(name)) is not None}

    def measure(self, contestants: list[Contestant]) -> dict[str, Summary]:
        return harness.measure(contestants, self.plan)

    # The machine's own limits, as contestants: measured in the same rounds as everything they are compared with.

    def fma_limit(self, name: str = "FMA limit") -> Contestant:
        seconds = self.plan.block_seconds
        return Contestant(name, lambda _: self.core.fma_rate("float32", seconds), is_rate=True)

    def meeting_cost(self, name: str = "meeting") -> Contestant:
        """Seconds until all threads have met, which tells how far apart their cores are."""
        seconds = self.plan.block_seconds
        return Contestant(name, lambda _: self.core.crossing_cost(1, seconds)[1], is_rate=True)

    def bf16_limit(self, name: str = "bf16 limit") -> Contestant:
        seconds = self.plan.block_seconds
        return Contestant(name, lambda _: self.core.bf16_rate(seconds), is_rate=True)

    def divider_limit(self, name: str = "divider limit") -> Contestant:
        seconds = self.plan.block_seconds
        return Contestant(name, lambda _: self.core.divider_rate("float32", seconds), is_rate=True)

    def copy_limit(self, num_bytes: int, name: str = "copy limit") -> Contestant:
        seconds = self.plan.block_seconds
        return Contestant(name, lambda _: self.core.copy_rate(num_bytes, seconds), is_rate=True)

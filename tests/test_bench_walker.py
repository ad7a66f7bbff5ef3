"""The command that examines walkers: what it writes, and what it leaves."""

import json
from dataclasses import replace

import pytest

from bench.walker import benchmark
from bench.walker.benchmark import PUSH_SPEEDS_M_S, PUSHED, Case, WalkBenchConfig, bench_walkers
from bridge.contract import UserError
from hitogata.bench import walker as bench_walker


def test_walkers_can_be_examined_one_after_another(tmp_path, monkeypatch, capsys):
    survived = {f"{stance} {speed}": 1.0 for stance in PUSHED for speed in PUSH_SPEEDS_M_S}

    def examined(config, unfinished):
        name = "ours" if config.ours else "holosoma_ppo"
        own = {"falls": 0.25, "velocity_error": 0.1, "pushes": survived}
        return {body: {name: own} for body in config.bodies}

    monkeypatch.setattr(bench_walker, "bench_walkers", examined)
    monkeypatch.setattr(bench_walker, "step_ms", lambda path: 0.1)
    monkeypatch.setattr(bench_walker, "batch_ratio", lambda path: 0.8)
    both = WalkBenchConfig()
    results = tmp_path / "walker.json"
    bench_walker.bench_walker(replace(both, baselines=False), results)
    monkeypatch.delattr(bench_walker, "step_ms")  # others have none
    bench_walker.bench_walker(replace(both, ours=False, bodies=("mesh",)), results)
    figures = json.loads(results.read_text(encoding="utf-8"))["figures"]
    assert set(figures["mesh"]) == {"ours", "holosoma_ppo"} and set(figures["ours"]) == {"ours"}
    assert figures["step_ms"] == 0.1 and figures["ours"]["ours"]["falls"] == 0.25
    assert "holosoma_ppo" in capsys.readouterr().out.replace("\n", "")
    assert results.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="--no-ours"):
        bench_walkers(replace(both, ours=False, baselines=False))


def test_an_interrupted_examination_goes_on(tmp_path, monkeypatch):
    config = WalkBenchConfig(bodies=("ours",), baselines=False)
    names = [case.name for case in benchmark.make_cases(config)]
    tried = []

    def run_scenario(scenario, *_):
        if len(tried) == 2:
            raise KeyboardInterrupt
        tried.append(scenario)

    def cases(config):
        scenario = benchmark.low_scenario(1, 0.6, 1.0, 0)
        return [Case(name, scenario, lambda _, name=name: {name: 1.0}) for name in names]

    monkeypatch.setattr(benchmark, "run_scenario", run_scenario)
    monkeypatch.setattr(benchmark, "make_cases", cases)
    unfinished = tmp_path / "walker.unfinished.json"
    with pytest.raises(KeyboardInterrupt):
        bench_walkers(config, unfinished)
    assert len(json.loads(unfinished.read_text(encoding="utf-8"))["over"]) == 2
    with pytest.raises(UserError, match="leave out --resume"):
        bench_walkers(replace(config, resume=True, seed=1), unfinished)
    whole = unfinished.read_bytes()
    for damaged in (b"{}", b'{"config": {}, "over": {"a": 1}}', whole[:-9]):
        unfinished.write_bytes(damaged)
        with pytest.raises(UserError, match="leave out --resume"):
            bench_walkers(replace(config, resume=True), unfinished)
    unfinished.write_bytes(whole)
    tried.append("one that is not counted")
    figures = bench_walkers(replace(config, resume=True, threads=1), unfinished)
    assert figures == {"ours": {"ours": dict.fromkeys(names, 1.0)}}
    assert len(tried) == 1 + len(names) and not unfinished.exists()

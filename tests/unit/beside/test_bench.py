"""The benchmarks: statistics, results, table, page; and that what they start is there."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Iterator, List, Mapping, Optional, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import __main__ as bench_main
from bench import document, hook_meter, measure, results, table
from bench.measure import Command, Contender, Run, alternate, command, median_s, ratio, timed
from bench.place import CHECKOUT, FULL, QUICK, Place, Sizes, install
from bench.results import OURS, Growth, Measure, Outcome, Results, Target
from bench.rows import ROWS, boot, hooks, quickstart, router, running, short, staging
from tests.pool.pool import PoolError
from tests.unit.returned import small_template
from vmcapsule import __version__
from vmcapsule.classad.ads import parse_ad
from vmcapsule.cli import arguments
from vmcapsule.config import load_config
from vmcapsule.errors import ToolError
from vmcapsule.process import find

TINY = replace(
    QUICK, rounds=1, large_bytes=5000, files=3, file_bytes=100, grow_files=(2,), grow_bytes=(9,)
)


def runs(*walls_s: float) -> tuple[Run, ...]:
    return tuple(Run(wall_s, wall_s / 2) for wall_s in walls_s)


FOUND = Results(
    {"processor": "One | of a kind", "cores": "2"},
    {
        "large": Outcome(
            (
                Measure(
                    "stage one file",
                    {"cp": runs(0.5, 0.5), OURS: runs(1.0, 2.0)},
                    (Target("x cp", 3.0, 1.1), Target("s", 0.15, 0.2)),
                ),
            )
        ),
        "xfs": Outcome(why_not="mounting needs root"),
        "translate": Outcome((Measure("small", {}, (Target("s", 0.04, 0.2),)),), load=5.5),
        "growth": Outcome(
            growths=(
                Growth("bytes", "s", {OURS: ((2**20, 0.1), (2**32, 4.0)), "cp": ((2**20, 1),)}),
            )
        ),
        "router": Outcome(
            (Measure("hooks", {}, (Target("CPU s a job", 0.3, 0.5),)),),
            (
                Growth("jobs", "CPU s", {"mean": ((1, 0.5),), "nth": ((1, 0.25), (2, 0.75))}),
                Growth("jobs", "s by job", {OURS: ((1, 20.0),), "native": ((1, 3.0),)}),
            ),
        ),
    },
)
NAMES = [row.name for row in ROWS]


# Statistics


def test_a_ratio_is_the_median_of_the_rounds_that_both_were_in() -> None:
    # The median of each alone would say 1.0.
    assert ratio(runs(4, 2, 3), runs(1, 4, 3)) == 1.0
    assert ratio(runs(2, 6, 9), runs(1, 2)) == 2.5
    assert median_s(runs(3, 1, 10)) == 3


def test_contenders_take_turns_and_a_slow_one_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    order: List[str] = []

    def run(todo: Command) -> Run:
        order.append(todo.argv[0])
        return Run(60.0 if todo.argv[0] == "slow" else 1.0, 0)

    monkeypatch.setattr(measure, "timed", run)
    both = [
        Contender(name, command(name), lambda name=name: order.append(f"prepare {name}"))  # type: ignore[misc]
        for name in ("quick", "slow")
    ]
    found = alternate(both, 3, budget_s=100.0)
    assert [one for one in order if "prepare" not in one] == [
        "quick", "slow", "slow", "quick", "quick",
    ]  # fmt: skip
    assert order[0::2] == [f"prepare {name}" for name in order[1::2]]
    assert {name: len(each) for name, each in found.items()} == {"quick": 3, "slow": 2}


def test_a_process_is_timed_with_input_and_environment() -> None:
    script = 'import os, sys; assert sys.stdin.read() + os.environ["MORE"] == "given"'
    used = timed(command(sys.executable, "-c", script, stdin="giv", env={"MORE": "en"}))
    assert used.wall_s > 0 and used.cpu_s > 0


def test_a_process_that_fails_is_no_measurement() -> None:
    with pytest.raises(ToolError, match="ended with 3: so it is"):
        timed(command("sh", "-c", "echo so it is; exit 3"))


# Results


def test_a_target_is_met_up_to_its_bound_as_it_is_printed() -> None:
    assert Target("x cp", 1.104, 1.1).is_met
    assert not Target("x cp", 1.106, 1.1).is_met
    assert Target("x faster", 20.0, 20.0, at_least=True).is_met
    assert not Target("x faster", 19.98, 20.0, at_least=True).is_met


def test_targets_compare_ours_with_the_other() -> None:
    found = {OURS: runs(1.0, 1.0), "cp": runs(4.0, 2.0)}
    assert results.at_most(found, "cp", 1.1) == Target("x cp", 0.375, 1.1)
    assert results.faster(found, "cp", 20) == Target("x faster than cp", 3.0, 20, True)
    assert results.at_most_s(found, 0.2) == Target("s", 1.0, 0.2)


# Table and page


def test_the_table_fits_a_terminal_and_says_what_is_met() -> None:
    lines = list(table.lines(FOUND, NAMES))
    assert max(map(len, lines)) <= 80
    (missed,) = [line for line in lines if line.startswith("  x cp")]
    assert missed.split() == ["x", "cp", "3.00", "at", "most", "1.1", "NO"]
    reached = next(line for line in lines if line.startswith("  s "))
    assert reached.split() == ["s", "0.15", "at", "most", "0.2", "yes"]
    assert "  medians: vmcapsule 1.50 s (2), cp 500 ms (2)" in lines
    assert "xfs: not run: mounting needs root" in lines
    assert [line for line in lines if "busy" in line] == [
        "translate: rough: the machine was busy (load 5.5)"
    ]


def page_of(found: Results, notes: Optional[Mapping[str, str]] = None) -> str:
    return document.text(document.page_of(found), NAMES, notes or {})


def test_the_page_says_it_all() -> None:
    page = page_of(FOUND, {"large": "Python starts.\n", "router": "Not shown."})
    assert "| processor | One \\| of a kind |\n" in page
    assert "| large | stage one file | x cp | 3.00 | at most 1.1 | no |\n" in page
    assert "| xfs | | | not run: mounting needs root | | |\n" in page
    assert "| large | stage one file | vmcapsule | 1.50 s | 750 ms | 2 |\n" in page
    assert "| translate | small | s | 0.04 | at most 0.2 | yes, rough |\n" in page
    assert "\nRough: the machine was busy with something else.\n" in page
    assert "| 4 GiB | 4 |  |\n" in page
    assert "\n### growth\n\n![Costs by bytes](performance-growth.png)\n" in page
    assert "\n**large.** Python starts.\n" in page
    assert "Not shown." not in page


def test_a_page_on_which_all_is_well_explains_nothing() -> None:
    well = Results({}, {"boot": Outcome((Measure("m", {}, (Target("s", 1.0, 2.0),)),))})
    assert "What is missed" not in page_of(well)
    assert "Rough" not in page_of(well) and "How it grows" not in page_of(well)


WORDS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1)
COSTS = st.floats(0, 1e4)


def outcomes() -> st.SearchStrategy[Outcome]:
    """Whatever a row may find."""
    target = st.builds(Target, st.sampled_from(["s", "x cp"]), COSTS, COSTS, st.booleans())
    run = st.builds(Run, COSTS, COSTS)
    runs_of = st.dictionaries(
        st.sampled_from([OURS, "cp", "import classad2"]),
        st.lists(run, min_size=1, max_size=3).map(tuple),
    )
    targets = st.lists(target, max_size=2).map(tuple)
    measure = st.builds(Measure, st.sampled_from(["stage", "boot, run"]), runs_of, targets)
    points = st.lists(st.tuples(st.integers(1, 1 << 40), COSTS), max_size=3).map(tuple)
    growth = st.builds(
        Growth,
        st.sampled_from(["files", "bytes", "jobs"]),
        st.just("s"),
        st.dictionaries(st.sampled_from([OURS, "cp", "nth"]), points),
    )
    return st.builds(
        Outcome,
        st.lists(measure, max_size=2).map(tuple),
        st.lists(growth, max_size=2).map(tuple),
        st.just("") | WORDS,
        st.floats(0, 9),
    )


@given(
    st.dictionaries(WORDS.map(str.strip).filter(lambda name: name and "|" not in name), WORDS),
    st.dictionaries(st.sampled_from(NAMES), outcomes()),
)
def test_the_page_keeps_what_was_found(
    machine: Mapping[str, str], found: Mapping[str, Outcome]
) -> None:
    page = document.page_of(Results(machine, found))
    written = document.text(page, NAMES, {})
    kept = document.read(written)
    assert kept.machine == page.machine
    assert kept.parts == {name: part for name, part in page.parts.items() if any(part)}
    assert document.text(kept, NAMES, {}) == written


def test_rows_run_again_replace_their_own_but_not_those_of_another_machine() -> None:
    old = document.page_of(FOUND)
    new = document.page_of(replace(FOUND, outcomes={"xfs": Outcome(why_not="no room")}))
    both = document.merged(old, new, NAMES)
    assert list(both.parts) == [name for name in NAMES if name in FOUND.outcomes]
    assert both.parts == {**old.parts, **new.parts}
    other = new._replace(machine={"processor": "Another"})
    assert list(document.merged(old, other, NAMES).parts) == ["xfs"]


def test_a_run_of_one_row_changes_its_lines_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page, before = tmp_path / "performance.md", document.PAGE.read_text()
    page.write_text(before)
    monkeypatch.setattr(document, "PAGE", page)
    slow = Outcome((Measure("small", {}, (Target("s", 9.0, 0.2),)),))
    bench_main.keep(Results(document.read(before).machine, {"boot": slow}))
    old, new = (set(text.splitlines()) for text in (before, page.read_text()))
    assert new - old == {"| boot | small | s | 9.00 | at most 0.2 | no |", NOT_YET}
    assert all(line.startswith("| boot | boot, run true") for line in old - new)
    assert [path.name for path in tmp_path.iterdir()] == ["performance.md"]


NOT_YET = "**boot.** Not looked into yet."


def test_the_page_in_docs_is_as_it_is_written() -> None:
    text = document.PAGE.read_text()
    page = document.read(text)
    assert document.text(page, NAMES, document.read_notes()) == text, "run './dev bench --page'"
    missed = {name for name, part in page.parts.items() if part.is_missed}
    assert missed <= set(document.read_notes()), "a missed target needs a note"
    assert set(page.parts) <= set(NAMES)
    drawn = [name for name, part in page.parts.items() if part.growth]
    assert {path.name for path in document.PAGE.parent.glob("performance*.png")} == {
        document.plot_of(name).name for name in drawn
    }


def test_the_plot_is_the_same_for_the_same_results(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib (the extra 'bench') is not installed")
    from bench import plot

    for name in ("one.png", "two.png"):
        plot.draw(FOUND.outcomes["router"].growths, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


# What is started


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With a template that needs no machine, and whose data disk is small."""
    config = load_config(small_template(tmp_path))
    (tmp_path / "work").mkdir()
    return Place(tmp_path / "work", TINY, config, install(tmp_path / "installation"))


def contenders(place: Place) -> Iterator[Contender]:
    """Those of all rows but the router's, which starts nothing but a pool."""
    bench = staging.Bench(place, place.scratch, 1, 1)
    every = [OURS, staging.CP, staging.MCOPY, staging.PYFATFS]
    yield from bench.staging(every)
    yield from bench.extraction([*every, staging.FLUSHED_CP])
    yield from hooks.contenders(place)
    yield from hooks.with_inputs(place, bench, [staging.CP, staging.MCOPY])
    yield from quickstart.contenders(place, place.scratch, place.config.template)
    yield from boot.contenders(place, "direct", place.scratch)


def is_there(argv: Sequence[str]) -> bool:
    """Whether a command line names a program that is there and arguments that it takes."""
    program = Path(find(argv[0])).name
    if program == "vmcapsule":
        return arguments.parser().parse_args(list(argv[1:])).function in ("boot", "translate")
    if program == "python3" and argv[1] == "-m":
        return importlib.util.find_spec(argv[2]) is not None
    return True


def test_what_the_rows_start_is_there(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # What boots is the other tests' matter; here, its command line.
    (tmp_path / "qemu-system-x86_64").write_text("#!/bin/sh\n")
    (tmp_path / "qemu-system-x86_64").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    every = list(contenders(place))
    assert [one.name for one in every if not is_there(one.command.argv)] == []
    assert len(every) == 4 + 5 + 2 + 3 + 3 + 2


def test_what_is_timed_is_installed_as_for_a_user(place: Place) -> None:
    script = "import sys, vmcapsule, bench, classad2; print(sys.prefix, *sys.modules)"
    argv = place.python("-c", script).argv
    env = {**os.environ, **place.environment}
    prefix, *modules = subprocess.run(
        argv, env=env, cwd="/", capture_output=True, text=True, check=True
    ).stdout.split()
    assert prefix == str(place.installation)
    assert [name for name in modules if "editable" in name or "distutils" in name] == []
    said = subprocess.run(
        place.vmcapsule("--version").argv, env=env, capture_output=True, text=True, check=True
    )
    assert said.stdout.split() == ["vmcapsule", __version__]
    with (CHECKOUT / "hooks/translate").open() as hook:
        assert hook.readline() == "#!/usr/bin/env python3\n"
    assert shutil.which("python3", path=env["PATH"]) == f"{place.installation}/bin/python3"


def test_a_tiny_staging_row_runs_and_leaves_nothing_of_size(place: Place) -> None:
    found = staging.small(place)
    assert [one.what.split()[0] for one in found.measures] == ["stage", "extract"]
    staged, extracted = (
        {name: len(each) for name, each in one.runs.items()} for one in found.measures
    )
    assert staged == {OURS: 1, "mcopy": 1, "cp": 1}
    assert extracted == {**staged, "cp, flushed": 1}
    assert [path.name for path in place.scratch.iterdir()] == ["discarded"]
    assert [path for path in place.scratch.rglob("*.vmdk") if path.stat().st_size] == []


def test_a_contender_that_brings_back_something_else_is_found_out(place: Place) -> None:
    bench = staging.Bench(place, place.scratch, 1, 1)
    (bench.tree).mkdir()
    (bench.tree / "file").write_text("as it was")
    (bench.out("cp") / "tree").mkdir(parents=True)
    (bench.out("cp") / "tree" / "file").write_text("as it is")
    with pytest.raises(ToolError, match="differ"):
        bench.check(["cp"])


def test_the_row_of_the_slot_s_hook_is_about_a_job_that_is_packed_there(place: Place) -> None:
    done = hooks.translate_slot(place)
    assert [measure.what for measure in done.measures] == [
        "translate a job to be packed in its slot"
    ]
    assert not list(place.capsules.glob("*"))
    ours, _ = hooks.contenders(place)
    with pytest.raises(ToolError, match="no job that is packed in its slot"):
        hooks.check_is_packed_there(ours.command)


def test_the_hook_row_s_job_becomes_a_capsule(place: Place) -> None:
    ours, _ = hooks.contenders(place)
    env = {**ours.command.env, "_CONDOR_VM_CAPSULE_CONDOR_TARBALL": __file__}
    env["_CONDOR_VM_CAPSULE_CONDOR_TARBALL_VERSION"] = "1.0"
    timed(replace(ours.command, env=env))
    assert len(list(place.capsules.glob("*/capsule.json"))) == 1


@pytest.mark.parametrize(("row", "others"), [("large", {"cp"}), ("small", {"mcopy", "cp"})])
def test_a_tiny_hook_row_with_inputs_runs(
    place: Place, row: str, others: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And finds out a capsule that has not what went in."""
    monkeypatch.setenv("_CONDOR_VM_CAPSULE_CONDOR_TARBALL", __file__)
    monkeypatch.setenv("_CONDOR_VM_CAPSULE_CONDOR_TARBALL_VERSION", "1.0")
    (one,) = getattr(hooks, row)(place).measures
    assert {name: len(each) for name, each in one.runs.items()} == {
        name: 1 for name in (OURS, *others)
    }
    assert not place.capsules.exists()
    monkeypatch.setattr(hooks, "timed", lambda command: None)
    with pytest.raises(ToolError, match="diff"):
        getattr(hooks, row)(place)


def test_full_sizes_are_those_of_the_targets() -> None:
    assert (FULL.large_bytes, FULL.files, FULL.file_bytes) == (1 << 30, 2000, 20_000)
    assert (FULL.template_disk_bytes, FULL.inputs_bytes) == (8 << 30, 100_000_000)
    assert (FULL.grow_files[0], FULL.grow_files[-1]) == (1, 10_000)
    assert (FULL.grow_bytes[0], FULL.grow_bytes[-1]) == (1 << 20, 4 << 30)
    assert (FULL.jobs[0], FULL.jobs[-1]) == (1, 200)


def test_nothing_of_the_product_imports_the_benchmarks() -> None:
    script = (
        "import sys, vmcapsule.cli.cli, vmcapsule.cli.commands, vmcapsule.cli.hook_commands\n"
    )
    script += (
        "print([name for name in sys.modules if name.split('.')[0] in ('bench', 'numpy')])"
    )
    argv = [sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=CHECKOUT)
    assert done.stdout == "[]\n"


# The router's row


def log(*calls: tuple[str, str, float]) -> str:
    return "".join(
        json.dumps({"hook": hook, "job": job, "cpu_s": cpu_s, "wall_s": 1.0, "status": 0})
        + "\n"
        for hook, job, cpu_s in calls
    )


def test_the_meter_knows_which_job_a_hook_is_for() -> None:
    source = b'[ Name = "capsule"; ]\n------\nClusterId = 12\nProcId = 3\n'
    routed = b'ClusterId = 40\nProcId = 0\nRoutedFromJobId = "12.3"\n'
    assert hook_meter.job_of(source) == "12.3"
    assert hook_meter.job_of(routed) == "12.3"
    assert hook_meter.job_of(b"ClusterId = 12\nProcId = 3\n------\n" + routed) == "12.3"


def test_what_the_hooks_used_is_summed_up_by_job() -> None:
    costs = router.read_costs(
        log(
            ("translate", "1.1", 0.25),
            ("translate", "1.0", 0.5),
            ("update", "1.1", 0.125),
            ("update", "1.1", 0.125),
        )
    )
    assert list(costs) == ["1.1", "1.0"]
    assert router.totals(costs) == [0.5, 0.5]
    assert costs["1.1"]["update"] == 0.25


def test_a_hook_that_failed_is_no_measurement() -> None:
    text = log(("translate", "1.0", 1.0)).replace('"status": 0', '"status": 1')
    with pytest.raises(ToolError, match="translate of job 1.0 failed"):
        router.read_costs(text)


def test_costs_that_grow_from_job_to_job_are_seen() -> None:
    assert router.flatness([9.0] * 9 + [1.0] * 141 + [2.0] * 50) == 2.0
    many = router.read_costs(log(*(("translate", f"1.{n}", 0.25) for n in range(200))))
    spans = {OURS: [(200.0, 800.0)], "native": [(200.0, 100.0)]}
    found = router.outcome(many, [(200, 0.25)], spans)
    assert [(t.of, t.value, t.is_met) for t in found.measures[0].targets] == [
        ("CPU s a job", 0.25, False),
        ("last / first 50", 1.0, True),
    ]
    assert found.growths[0].points == {OURS: ((200.0, 4.0),), "native": ((200.0, 0.5),)}


def test_a_made_up_queue_has_each_job_and_its_copy() -> None:
    source = parse_ad('ClusterId = 1\nGlobalJobId = "ap#1.0#9"\nRoutedToJobId = "2.0"\n')
    routed = parse_ad('ClusterId = 2\nRoutedFromJobId = "1.0"\nRank = 1.0\n')
    lines = "\n".join(running.queue_of(source, routed, 2)).splitlines()
    # HTCondor takes no line without the blank.
    assert (lines.count("105 "), lines.count("106 ")) == (2, 2)
    found = {tuple(line.split(" ", 3)[1:]) for line in lines if line.startswith("103 ")}
    assert found >= {
        ("1002.0", "ClusterId", "1002"),
        ("1002.0", "GlobalJobId", '"bench#1002.0#1"'),
        ("1002.0", "RoutedToJobId", '"1003.0"'),
        ("1003.0", "RoutedFromJobId", '"1002.0"'),
        ("1003.0", "Rank", "1.0"),
    }


# The command


def test_every_row_has_a_name_of_its_own_and_is_listed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert bench_main.main(["--list"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == NAMES
    assert len(set(NAMES)) == len(NAMES)
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines())


def test_a_row_that_is_not_there_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_main.main(["smoll"]) == 64
    assert "there is no row 'smoll'" in capsys.readouterr().err


def test_a_row_that_fails_says_why_and_the_others_run(place: Place) -> None:
    def fails(_: Place) -> Outcome:
        raise ToolError("mcopy is not there")

    row = replace(ROWS[0], run=fails)
    assert bench_main._run(row, place) == Outcome(why_not="mcopy is not there")


def test_sizes_say_how_much_there_is_to_do() -> None:
    assert all(isinstance(sizes, Sizes) and sizes.rounds % 2 for sizes in (FULL, QUICK))


# The row of one short job

JOB_LOG = """\
000 (007.000.000) 2026-11-28 23:59:30 Job submitted from host: <127.0.0.1:9618>
...
001 (007.000.000) 2026-11-29 00:00:10 Job executing on host: <127.0.0.1:9618>
...
006 (007.000.000) 2026-11-29 00:00:12 Image size of job updated: 1
\t3  -  MemoryUsage of job (MB)
...
005 (007.000.000) 2026-11-29 00:00:15 Job terminated.
\t(1) Normal termination (return value 0)
...
"""


def test_a_job_s_waits_are_those_between_its_events() -> None:
    assert short.read_waits(JOB_LOG) == short.Waits(starting_s=40, running_s=5)
    with pytest.raises(PoolError, match="no event 005"):
        short.read_waits(JOB_LOG.replace("005 (", "009 ("))


def test_waits_are_told_by_way_without_cpu_time_that_nobody_measured() -> None:
    found = short.outcome({"native": [short.Waits(40, 5)], "vmware": [short.Waits(50, 20)]})
    page = document.page_of(Results({}, {"short": found}))
    assert page.parts["short"].times == (
        "| short | a short job from submitted to executing | native | 40.00 s | - | 1 |\n",
        "| short | a short job from submitted to executing | vmware | 50.00 s | - | 1 |\n",
        "| short | a short job from executing to terminated | native | 5.00 s | - | 1 |\n",
        "| short | a short job from executing to terminated | vmware | 20.00 s | - | 1 |\n",
        "| short | a short job as a whole | native | 45.00 s | - | 1 |\n",
        "| short | a short job as a whole | vmware | 70.00 s | - | 1 |\n",
    )

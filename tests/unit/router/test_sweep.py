"""What nobody owns goes; what anybody may still need stays."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Optional

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.unit.returned import make_capsule, make_job, put_into
from tests.unit.users import open_way
from vmcapsule.capsule import making, naming, scratch, states
from vmcapsule.capsule.record import Capsule
from vmcapsule.capsule.states import State
from vmcapsule.classad.ads import quote
from vmcapsule.router import job_queue, sweep

#: Stands in for HTCondor's tools, which a machine for unit tests has not.
TOOL = """#!/bin/sh
case "$0 $*" in
*condor_q*-totals*) echo; echo; echo "-- Schedd: HOST : <10.0.0.1:9618?addrs=x> @ 11/24/26" ;;
*condor_q*'isString(VmCapsuleDir)'*) cat {folder}/needed.json ;;
*condor_q*) cat {folder}/queue.json 2>/dev/null ;;
*condor_history*) cat {folder}/history.json 2>/dev/null ;;
esac
exit 0
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("condor_q", "condor_history"):
        (folder / name).write_text(TOOL.format(folder=folder))
        (folder / name).chmod(0o755)
    (folder / "needed.json").write_text("")
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def made_for(tmp_path: Path, proc: int, kind: str = naming.ROUTED) -> Capsule:
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    numbers = {"ClusterId": "4", "ProcId": str(proc), "GlobalJobId": quote(f"host#4.{proc}#1")}
    return make_capsule(tmp_path / "s", make_job(home, **numbers), {f"out{proc}": b"x"}, kind)


def swept(tmp_path: Path, min_age_s: float = 0.0) -> str:
    lines: list[str] = []
    sweep.sweep(tmp_path / "s", min_age_s, lines.append)
    return "\n".join(lines)


def left(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "s").iterdir()}


def test_what_the_queue_needs_stays(tools: Path, tmp_path: Path) -> None:
    routed, claimed, orphan = (made_for(tmp_path, number) for number in range(3))
    for made in (routed, claimed, orphan):
        put_into(made, State.DELIVERED)
    (tools / "needed.json").write_text(
        f'[{{"VmCapsuleDir": "{routed.folder}", "GlobalJobId": "host#9.0#1"}},\n'
        '{"Managed": "External", "GlobalJobId": "host#4.1#1"}]'
    )
    assert f"removed {orphan.folder}: delivered" in swept(tmp_path)
    assert left(tmp_path) == {routed.folder.name, claimed.folder.name}


def test_outputs_of_a_job_that_ended_stay_and_of_a_removed_one_go(
    tools: Path, tmp_path: Path
) -> None:
    made = made_for(tmp_path, 0)
    (tools / "history.json").write_text('[{"JobStatus": 4}]')
    assert "not delivered" in swept(tmp_path) and made.folder.exists()
    (tools / "history.json").write_text('[{"JobStatus": 3}]')
    assert "removed" in swept(tmp_path) and not made.folder.exists()


def test_a_killed_delivery_is_finished(tools: Path, tmp_path: Path) -> None:
    made = made_for(tmp_path, 0)
    put_into(made, State.DELIVERING)
    assert "finished its delivery" in swept(tmp_path)
    assert (tmp_path / "home" / "out0").read_bytes() == b"x"


def test_where_the_schedd_does_not_answer_nothing_goes(tools: Path, tmp_path: Path) -> None:
    put_into(made_for(tmp_path, 0), State.DELIVERED)
    (tools / "condor_q").write_text("#!/bin/sh\necho 'no schedd' >&2; exit 1\n")
    assert "no schedd" in swept(tmp_path)
    assert len(left(tmp_path)) == 1


def test_what_somebody_is_at_work_on_stays(tools: Path, tmp_path: Path) -> None:
    with making.draft(tmp_path / "s" / naming.new_name("run", "4.0", None)) as aside:
        swept(tmp_path)
        assert aside.exists()
    made = made_for(tmp_path, 1, naming.RUN)
    with states.locked(made.folder):
        swept(tmp_path)
        assert made.folder.exists()


def test_what_was_left_of_a_killed_process_goes(tools: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from vmcapsule.capsule import making, naming\n"
        "name = naming.new_name('capsule', '4.0', 'g')\n"
        "with making.draft(Path(sys.argv[1]) / name): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "s"], check=False)
    (draft,) = left(tmp_path)
    assert draft.startswith(".capsule-4.0-")
    assert swept(tmp_path, min_age_s=60) == "" and left(tmp_path) == {draft}, "it is young"
    assert "left over" in swept(tmp_path) and left(tmp_path) == set()


def test_what_is_kept_on_purpose_stays(tools: Path, tmp_path: Path) -> None:
    made = made_for(tmp_path, 0, naming.RUN)
    put_into(made, State.DELIVERED)
    states.keep(made.folder)
    assert swept(tmp_path) == "" and made.folder.exists()


def test_what_is_no_capsule_is_not_touched(tools: Path, tmp_path: Path) -> None:
    for name in ("mine", "capsule-x", "run-1.0", "capsule-1.0-0123456-01234567"):
        (tmp_path / "s" / name).mkdir(parents=True)
    (tmp_path / "s" / f"run-1.0-{'0' * 8}-{'0' * 8}").symlink_to(tmp_path)
    before = left(tmp_path)
    assert swept(tmp_path) == "" and left(tmp_path) == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root sweeps for others")
def test_root_sweeps_with_the_owners_rights(tools: Path, tmp_path: Path) -> None:
    made = made_for(tmp_path, 0)
    put_into(made, State.DELIVERING)
    # The user made a place that only root could write the output to.
    (tmp_path / "home").chmod(0o755)
    for path in [made.folder, *made.folder.rglob("*")]:
        os.chown(path, 65534, 65534, follow_symlinks=False)
    (tmp_path / "s").chmod(0o777)
    open_way(tmp_path / "home")
    put_into(made_for(tmp_path, 1), State.DELIVERING)
    code = (
        "import sys; from pathlib import Path; from vmcapsule.router.sweep import sweep\n"
        "sweep(Path(sys.argv[1]), 0.0, lambda line: print(line, flush=True))"
    )
    argv = [sys.executable, "-c", code, tmp_path / "s"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert "kept" in done.stdout and "Permission denied" in done.stdout, done.stderr
    assert {path.name for path in (tmp_path / "home").iterdir()} == {"out1"}


def test_a_new_translation_clears_what_earlier_ones_left(tmp_path: Path) -> None:
    mine, other_proc = made_for(tmp_path, 1), made_for(tmp_path, 10)
    other_queue = tmp_path / "s" / naming.new_name("capsule", "4.1", "other#4.1#1")
    other_queue.mkdir()
    (tmp_path / "s" / f".{mine.folder.name}.abc").mkdir()
    began = made_for(tmp_path, 1)
    put_into(began, State.DELIVERING)
    kept = made_for(tmp_path, 1)
    states.keep(kept.folder)
    scratch.clear(tmp_path / "s", "4.1", "host#4.1#1")
    stay = {other_proc.folder.name, other_queue.name, began.folder.name, kept.folder.name}
    assert left(tmp_path) == stay


def of_schedd(tmp_path: Path, schedd: str, proc: int) -> Capsule:
    """A capsule whose outputs were delivered, of a job in that schedd's queue."""
    home = tmp_path / "home"
    home.mkdir(exist_ok=True)
    numbers = {"ClusterId": "4", "ProcId": str(proc)}
    job = make_job(home, **numbers, GlobalJobId=quote(f"{schedd}#4.{proc}#1"))
    made = make_capsule(tmp_path / "s", job, {}, naming.ROUTED)
    put_into(made, State.DELIVERED)
    return made


def test_what_another_schedd_may_need_stays(tools: Path, tmp_path: Path) -> None:
    """Two access points can share a scratch folder, and two schedds a machine."""
    own = of_schedd(tmp_path, "host", 0)
    others = [of_schedd(tmp_path, name, 1) for name in ("two@host", "other.host", "other.host")]
    said = swept(tmp_path)
    assert f"removed {own.folder}: delivered" in said
    assert "left alone 2 of the schedd 'other.host', which was not asked" in said
    assert "left alone 1 of the schedd 'two@host'" in said
    assert left(tmp_path) == {made.folder.name for made in others}


def test_what_does_not_say_of_which_schedd_it_is_stays(tools: Path, tmp_path: Path) -> None:
    made = make_capsule(tmp_path / "s", make_job(tmp_path), {}, naming.ROUTED)
    put_into(made, State.DELIVERED)
    assert "left alone 1 of the schedd that made it and is not named" in swept(tmp_path)
    assert made.folder.exists()


def test_where_the_schedd_has_no_name_nothing_goes(tools: Path, tmp_path: Path) -> None:
    made = of_schedd(tmp_path, "host", 0)
    (tools / "condor_q").write_text("#!/bin/sh\necho 'no such thing'\n")
    assert "'condor_q -totals' does not name its schedd: no such thing" in swept(tmp_path)
    assert made.folder.exists()


def test_what_a_user_says_in_an_ad_keeps_no_answer_from_us(tools: Path, tmp_path: Path) -> None:
    needed, orphan = of_schedd(tmp_path, "host", 0), of_schedd(tmp_path, "host", 1)
    (tools / "needed.json").write_bytes(
        b'[{"VmCapsuleDir": "\xff\x01", "GlobalJobId": "host#9.0#1"},'
        b'{"VmCapsuleDir": "' + os.fsencode(needed.folder) + b'"}]'
    )
    assert f"removed {orphan.folder}" in swept(tmp_path)
    assert left(tmp_path) == {needed.folder.name}


@given(
    st.text(min_size=1),
    st.integers(0, 1 << 31),
    st.integers(0, 1 << 31),
    st.none() | st.integers(0, 1 << 40),
)
def test_a_global_job_id_says_which_schedd_gave_it(
    schedd: str, cluster: int, proc: int, time_s: Optional[int]
) -> None:
    time = "" if time_s is None else f"#{time_s}"
    assume(not re.search(r"#\d+\.\d+\Z", schedd))
    assert job_queue.schedd_of(f"{schedd}#{cluster}.{proc}{time}") == schedd.lower()


@given(st.none() | st.text())
def test_what_is_no_global_job_id_says_nothing(text: Optional[str]) -> None:
    said = job_queue.schedd_of(text)
    assert said is None or re.search(r"#\d+\.\d+(#\d+)?\Z", text or "")

"""The vm-gahp's protocol: what a starter says is answered, whatever it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmcapsule.slot.gahp.dialogue import GREETING, Asked, Dialogue, State
from vmcapsule.slot.gahp.lines import LINE_BYTES_MAX, Lines, sentence, words

PID = 4711
AD = ['JobVMType = "vmware"', "JobVMMemory = 512", "JobVM_VCPUS = 2", 'ClaimId = "secret"']


class Fake:
    """A machine that notes what is done to it."""

    def __init__(self) -> None:
        self.state = State.ENDED
        self.pid = 0
        self.deeds: list[object] = []

    def start(self, asked: Asked) -> None:
        self.state, self.pid = State.RUNNING, PID
        self.deeds.append(asked)

    def stop(self) -> None:
        self.state = State.ENDED
        self.deeds.append("stop")

    def pause(self) -> None:
        self.state = State.PAUSED
        self.deeds.append("pause")

    def go_on(self) -> None:
        self.state = State.RUNNING
        self.deeds.append("go on")


class Talk:
    def __init__(self) -> None:
        self.machine = Fake()
        self.dialogue = Dialogue("vmware", self.machine)

    def ask(self, line: str) -> list[str]:
        return self.dialogue.say(line)

    def result(self, line: str) -> str:
        """What becomes of a request."""
        assert self.ask(line) == ["S"]
        count, result = self.ask("RESULTS")
        assert count == "S 1"
        return result


@pytest.fixture
def talk() -> Talk:
    return Talk()


@pytest.fixture
def running() -> Talk:
    talk = Talk()
    assert talk.ask("CLASSAD") == ["S"]
    assert [talk.ask(line) for line in AD] == [[]] * len(AD)
    assert talk.ask("CLASSAD_END") == ["S"]
    assert talk.result("CONDOR_VM_START 2 vmware") == "2 0 1"
    return talk


def test_what_a_starter_asks_first(talk: Talk) -> None:
    (commands,) = talk.ask("COMMANDS")
    assert "CONDOR_VM_START" in commands.split() and commands.split()[0] == "S"
    # With it a starter reads on its own, and fails where we end.
    assert "ASYNC_MODE_ON" not in commands
    assert talk.ask("SUPPORT_VMS") == ["S vmware"]
    assert talk.ask("VERSION") == [f"S {GREETING}"]
    assert GREETING.startswith("$VMGahpVersion")


def test_a_machine_is_started_as_the_ad_says(running: Talk) -> None:
    assert running.machine.deeds == [Asked("vmware", 512, 2)]
    assert running.result("CONDOR_VM_STATUS 4 1") == f"4 0 STATUS=Running PID={PID}"


def test_the_starter_knows_the_machine_once_it_has_its_process(running: Talk) -> None:
    assert running.ask("CONDOR_VM_GETPID 3 1") == ["S"]
    assert not running.dialogue.may_end
    assert running.ask("RESULTS") == ["S 1", f"3 0 {PID}"]
    assert running.dialogue.may_end
    assert running.ask("CONDOR_VM_STATUS 4 1") == ["S"]
    assert not running.dialogue.may_end, "it waits for an answer"
    running.ask("RESULTS")
    assert running.dialogue.may_end


@pytest.mark.parametrize("command", ["CONDOR_VM_SUSPEND", "CONDOR_VM_SOFT_SUSPEND"])
def test_a_suspended_machine_stands_still_and_goes_on(running: Talk, command: str) -> None:
    assert running.result(f"{command} 5 1") == "5 0 NULL"
    assert running.result("CONDOR_VM_STATUS 6 1") == "6 0 STATUS=SoftSuspended"
    assert running.result("CONDOR_VM_RESUME 7 1") == "7 0 NULL"
    assert running.machine.deeds[1:] == ["pause", "go on"]


def test_a_machine_is_stopped_also_when_it_has_ended(running: Talk) -> None:
    assert running.result("CONDOR_VM_STOP 5 1") == "5 0 NULL"
    assert running.result("CONDOR_VM_STATUS 6 1") == "6 0 STATUS=Stopped"
    assert running.result("CONDOR_VM_STOP 7 1") == "7 0 NULL"
    for command in ("SUSPEND", "SOFT_SUSPEND", "RESUME"):
        answer = running.result(f"CONDOR_VM_{command} 8 1")
        assert answer == "8 1 VMGAHP_ERR_VM_INVALID_OPERATION"
    assert running.machine.deeds[1:] == ["stop", "stop"]


def test_a_checkpoint_is_refused(running: Talk) -> None:
    assert (
        running.result("CONDOR_VM_CHECKPOINT 5 1") == "5 1 VMGAHP_ERR_VM_NO_SUPPORT_CHECKPOINT"
    )


def test_there_is_one_machine(running: Talk) -> None:
    assert running.result("CONDOR_VM_START 3 vmware") == "3 1 VMGAHP_ERR_VM_INVALID_OPERATION"
    assert running.result("CONDOR_VM_STOP 4 2") == "4 1 VMGAHP_ERR_VM_NOT_FOUND"
    assert running.result("CONDOR_VM_GETPID 4 0") == "4 1 VMGAHP_ERR_VM_NOT_FOUND"
    assert running.result("CONDOR_VM_STATUS 5 2") == "5 0 STATUS=Stopped"
    assert len(running.machine.deeds) == 1


@pytest.mark.parametrize(
    ("ad", "error"),
    [
        (None, "VMGAHP_ERR_NO_JOBCLASSAD_INFO"),
        ([], "VMGAHP_ERR_NO_JOBCLASSAD_INFO"),
        (["JobVMType = undefined"], "VMGAHP_ERR_NO_JOBCLASSAD_INFO"),
        (['JobVMType = "kvm"'], "VMGAHP_ERR_NO_SUPPORTED_VM_TYPE"),
    ],
)
def test_no_machine_is_started_for_an_ad_of_another(
    talk: Talk, ad: list[str] | None, error: str
) -> None:
    for line in [] if ad is None else ["CLASSAD", *ad, "CLASSAD_END"]:
        talk.ask(line)
    assert talk.result("CONDOR_VM_START 2 vmware") == f"2 1 {error}"
    assert talk.machine.deeds == []


@pytest.mark.parametrize(
    ("expression", "memory_mib"),
    [
        ("512", 512),
        ("RequestMemory", None),
        ("-1", None),
        ("0", None),
        ("1e3", None),
        ("99999999999", None),
    ],
)
def test_an_ad_is_asked_for_plain_numbers(
    talk: Talk, expression: str, memory_mib: int | None
) -> None:
    for line in ["CLASSAD", AD[0], f"jobvmmemory = {expression}", "CLASSAD_END"]:
        talk.ask(line)
    talk.result("CONDOR_VM_START 2 VMWare")
    assert talk.machine.deeds == [Asked("vmware", memory_mib, None)]


@pytest.mark.parametrize(
    ("said", "wants"), [("true", True), ("TRUE", True), ("false", False), ("1", False)]
)
def test_an_ad_is_asked_for_a_snapshot(talk: Talk, said: str, wants: bool) -> None:
    for line in ["CLASSAD", AD[0], f"VMPARAM_VMware_SnapshotDisk = {said}", "CLASSAD_END"]:
        talk.ask(line)
    talk.result("CONDOR_VM_START 2 vmware")
    assert talk.machine.deeds == [Asked("vmware", snapshot=wants)]


@pytest.mark.parametrize(
    "line",
    [
        "",
        "NOTHING",
        "RESULTS now",
        "ASYNC_MODE_ON",
        "CONDOR_VM_START 1",
        "CONDOR_VM_START 0 vmware",
        "CONDOR_VM_START x vmware",
        "CONDOR_VM_START 1 kvm",
        "CONDOR_VM_STOP 1 x",
        "CONDOR_VM_STOP 1 1 1",
        "CONDOR_VM_STOP -1 1",
        "CONDOR_VM_STOP 4294967296 1",
        "CONDOR_VM_GETPID ² 1",
    ],
)
def test_what_is_no_request_is_an_error(running: Talk, line: str) -> None:
    assert running.ask(line) == ["E"]
    assert running.ask("RESULTS") == ["S 0"]


SAID = st.one_of(
    st.text(max_size=60),
    st.sampled_from([*AD, "CLASSAD", "CLASSAD_END", "RESULTS", "COMMANDS", "QUIT", "VERSION"]),
    st.builds(
        "CONDOR_VM_{} {} {}".format,
        st.sampled_from(
            [
                "START",
                "STOP",
                "STATUS",
                "GETPID",
                "SUSPEND",
                "SOFT_SUSPEND",
                "RESUME",
                "CHECKPOINT",
            ]
        ),
        st.integers(-1, 5),
        st.sampled_from(["0", "1", "2", "vmware", "kvm", ""]),
    ),
)


@given(st.lists(SAID, max_size=40))
def test_anything_in_any_order_gets_answers_that_a_starter_can_read(said: list[str]) -> None:
    talk = Talk()
    results = 0
    for line in said:
        answers = talk.ask(line)
        assert all("\n" not in answer and "secret" not in answer for answer in answers)
        for answer in answers[:1]:
            assert answer == "E" or answer.split(" ")[0] == "S"
        if len(answers) > 1:
            results += len(answers) - 1
            assert answers[0] == f"S {len(answers) - 1}"
    starts = [deed for deed in talk.machine.deeds if isinstance(deed, Asked)]
    assert len(starts) <= 1
    assert talk.machine.deeds[:1] == starts, "nothing happens to a machine before its start"


@given(st.lists(st.text(st.characters(exclude_characters="\n"), max_size=9), min_size=1))
def test_words_come_as_they_were_said(said: list[str]) -> None:
    said = [word.replace("\t", " ").replace("\r", " ") for word in said]
    assert words(sentence(*said)) == said


@given(st.binary(max_size=400), st.lists(st.integers(1, 60)))
def test_lines_are_the_same_however_they_are_cut(data: bytes, cuts: list[int]) -> None:
    whole, pieces = Lines(), Lines()
    came = []
    rest = data
    for cut in cuts:
        came += pieces.feed(rest[:cut])
        rest = rest[cut:]
    came += pieces.feed(rest)
    assert came == whole.feed(data)
    assert len(came) == data.count(b"\n")


def test_a_line_without_an_end_takes_no_memory_without_one() -> None:
    lines = Lines()
    for _ in range(3):
        assert lines.feed(b"x" * LINE_BYTES_MAX) == []
    (line,) = lines.feed(b"\n")
    assert len(line) == LINE_BYTES_MAX
    assert lines.feed(b"y\n") == ["y"]

"""What is read of users' and guests' text costs in proportion to its length.

Each case is 1 MiB made to be slow, in a process of its own with a limit of CPU time.  That is
no clock: what is in proportion takes a second or two, what is not takes hours.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

HOME = Path(__file__).resolve().parents[2]
CPU_LIMIT_S = 20
PREAMBLE = f"""
import contextlib, resource
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_LIMIT_S}, {CPU_LIMIT_S}))
from vmcapsule.classad import text as classad_text
from vmcapsule.classad.ads import parse_ad, split_finalize, split_translate
from vmcapsule.errors import AdError, DeliveryError
from vmcapsule.job import text as job_text
from vmcapsule.job.source import read_job
from vmcapsule.slot import starter
from vmcapsule.template.template import parse_vmx
from vmcapsule.transfer.outputs import Destinations
N = 1 << 20
def job(**texts):
    lines = "".join(f'{{name}} = "{{text}}"\\n' for name, text in texts.items())
    return read_job(parse_ad('JobUniverse = 5\\nCmd = "/bin/true"\\nIwd = "/home"\\n' + lines))
"""
CASES = {
    "blanks in an environment": """
        ad = parse_ad('Environment = "A=' + " " * N + 'x"')
        assert len(ad.string("Environment")) == N + 3""",
    "blanks in an expression": "parse_ad('A = 1 +' + ' ' * N + '1')",
    "blanks before an equals sign": "parse_ad('A' + ' ' * N + '= 1')",
    "a long name without an expression": """
        with contextlib.suppress(AdError):
            parse_ad("A" * N)""",
    "backslashes": """parse_ad('A = "' + "\\\\" * N + '"')""",
    "quotes that are not closed": """
        with contextlib.suppress(AdError):
            parse_ad("A = " + '"' + '""' * N)""",
    "a record of many items": """
        parse_ad("[" + "".join(f"a{n}=1;\\n" for n in range(N // 9)) + "]")""",
    "comments before each item": "parse_ad('[a=1;' + '/**/' * (N // 4) + 'b=2]')",
    "a record's item of blanks": "parse_ad('[a=1;' + ' ' * N + 'b=' + ' ' * N + '2]')",
    "many jobs after a large cluster": """
        ad = "ClusterId = 1\\n" + "".join(f"A{n} = 1\\n" for n in range(N // 20))
        with contextlib.suppress(AdError):
            split_translate(f"[ ]\\n------\\n{ad}\\n" + "ProcId = 1\\n\\n" * (N // 24))""",
    "dashes and blanks": """
        with contextlib.suppress(AdError):
            split_finalize(("-" * 99 + " " * 99 + "x\\n") * (N // 199))""",
    "remaps": "assert len(job_text.remaps('a=b;' * N)) == N",
    "fields of remaps without a name": """
        assert job_text.remaps(";" * N + "a=b") == (("a", "b"),)""",
    "remaps of backslashes": "job_text.remaps('a=b' + '\\\\;' * (N // 2))",
    "an environment of quotes": """
        with contextlib.suppress(ValueError):
            job_text.split_v2("'" + "''" * (N // 2) + "x")""",
    "an environment of many variables": "job_text.environment_v2('a=b ' * (N // 4))",
    "old arguments": "job_text.split_v1(' a' * (N // 2))",
    "an old environment": "job_text.environment_v1(';' * N)",
    "what the starter wrote": """
        ad = " " * N + "\\n" + "NumJobStarts" * (N // 12) + " = 1\\nNumJobStarts = 7"
        assert starter._count(ad, "NumJobStarts") == 7""",
    "as many listed outputs as there are": """
        places = Destinations(job(TransferOutput=",".join(f"d/f{n}" for n in range(N // 8))))
        assert places.place(f"d/f{N // 8 - 1}") == f"/home/f{N // 8 - 1}"
        assert all(places.place(f"x/{n}") is None for n in range(N // 8))""",
    "as many of them with their paths": """
        items = ",".join(f"d{n}/f" for n in range(N // 8))
        places = Destinations(job(TransferOutput=items)._replace(preserve_relative_paths=True))
        assert all(places.place(f"d{n}") for n in range(N // 8))
        assert all(places.place(f"x/{n}") is None for n in range(N // 8))""",
    "as many that a failed job leaves": """
        places = Destinations(job(FailureFiles=",".join(f"d{n}/f" for n in range(N // 8))))
        assert all(places.returned_name(f"d{n}") is None for n in range(N // 8))""",
    "a remap to a path of a mebibyte": """
        places = Destinations(job(TransferOutputRemaps="a=" + "b/" * (N // 2)))
        with contextlib.suppress(DeliveryError):
            places.place("a")""",
    "settings of a VM": "parse_vmx('a' + ' ' * N + '\\nb=c' + ' ' * N + 'd')",
}


@pytest.mark.parametrize("case", CASES)
def test_a_mebibyte_takes_no_longer_than_it_must(case: str) -> None:
    body = textwrap.dedent(CASES[case])
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + body], cwd=HOME, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr or f"status {done.returncode}"

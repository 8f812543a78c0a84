"""``python -m tests.pool start|stop|shell``: what ``./dev pool`` runs."""

from __future__ import annotations

import argparse
import os
import sys
from typing import List, Optional

from tests.pool.pool import Pool, require_root
from vmcapsule.errors import VmCapsuleError


def main(arguments: Optional[List[str]] = None) -> int:
    """Do what the command line says; errors are one line on stderr."""
    parser = argparse.ArgumentParser(prog="./dev pool", description="A real pool to try.")
    parser.add_argument(
        "command", nargs="?", default="start", choices=["start", "stop", "shell"]
    )
    parser.add_argument("--suite", default="trixie", help="Debian's (default: trixie)")
    parser.add_argument(
        "--user", default="alice", help="for the shell: alice (default), bob or root"
    )
    args = parser.parse_args(arguments)
    pool = Pool(args.suite)
    try:
        if args.command == "start":
            pool.start(linger=True)
            print("the pool runs; './dev pool shell' enters it, './dev pool stop' ends it")
        elif args.command == "stop":
            print("the pool is stopped" if pool.stop() else "no pool was running")
        else:
            require_root()
            pool.space.running()
            pool.space.account(args.user)
            home = "/root" if args.user == "root" else f"/home/{args.user}"
            argv = pool.space.entering(args.user, home, ["bash", "-l"])
            os.execvp(argv[0], argv)
    except VmCapsuleError as error:
        print(f"./dev pool: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What host and guest agree on: names and record formats on the data disk.

The guest's script stands alone and repeats these constants; a test holds the two
together.  All paths are relative to the root of the data disk's vfat file system, and
every name fits vfat, so that any name, mode, link, sparse file and size a Linux job can
have is carried by the *index* and its *packs* instead of by the file system.

Job record (``JOB_RECORD``, JSON, written by the host)
    format            int, `FORMAT`
    runner            "condor" or "direct"
    executable        path of the program: relative to the sandbox, or absolute in the guest
    arguments         list of strings, without the program's own name
    environment       object of strings, what a starter adds included (for the direct runner;
                      HTCondor takes the job ad's); "#CoNdOrScRaTcHdIr#" in a value stands
                      for the sandbox
    stdin             sandbox-relative or absolute path, or null for /dev/null
    stdout, stderr    names in the sandbox (equal names: one merged file), or null for /dev/null
    outputs           list of sandbox-relative paths to send back, or null for "new or
                      changed files at the top level" (HTCondor's default)
    omit              list of top-level names that the default never sends back
                      (the executable)
    success_status    int, the wait status (wait(2)) without which the job has failed and only
                      its streams and ``failure_outputs`` are sent back; null: it cannot fail
    failure_outputs   list of sandbox-relative paths
    time_zone         name of the host's time zone, as in /etc/timezone, or null
    user              login name the job should find itself under, or null
    cpus, memory_mib  ints, what the job asked for
    disk_kib          int, what it asked for: to be free where it runs, its inputs aside
    work_disk_bytes   int, the size of the disk to work on that comes along (ext4, labeled
                      `WORK_LABEL`); 0: none
    sandbox           absolute path that the sandbox is to have in the guest (for the direct
                      runner, where the machine is the guest's own); null: the guest chooses
    all_changes       bool: send back, and no ``outputs``, whatever is new or changed at any
                      depth of the sandbox, and what is gone (for the direct runner)
    chirp_config, chirp_cookie      where the job looks for its starter's chirp proxy (an
                      absolute path), to which the line leads, and what opens it (for the
                      direct runner); null: the job has none
    condor_version    HTCondor is in /condor-<this>, to which the tarball unpacks; null for the
                      direct runner

Job ad (``JOB_AD``, text, written by the host)
    The ClassAd that the personal HTCondor is given, one ``Attr = expr`` a line.

Sandbox ad (``SANDBOX_AD``, text, written by the host)
    The ad that the job finds as .job.ad, one ``Attr = expr`` a line; the guest adds what
    only it knows (Iwd, when the job started).

Run ad (``RUN_AD``, text, written by the host with room for what is not known yet, blank
lines, and overwritten where the capsule is booted, if there is anything to say)
    What only the slot knows of this run of the job, on top of the sandbox ad.

Machine ad (``MACHINE_AD``, text, written by the host)
    The slot's ClassAd that the job finds, one ``Attr = expr`` a line; under HTCondor on top
    of what the startd says.

HTCondor's configuration (``CONDOR_CONFIG``, text, written by the host for runner "condor")
    Complete but for the macros VMCAPSULE_WORK and VMCAPSULE_USER, which the guest puts
    before it.

HTCondor's tarball (``TARBALL``, written by the host for runner "condor")
    Unpacks in / to /condor-<condor_version>, in place of a folder that is there already.
    Absent where that folder of the template's holds this very HTCondor.

Time zone (``LOCALTIME``, binary, written by the host where it has one)
    What the host has in /etc/localtime.

Index (``INPUT_INDEX``, ``OUTPUT_INDEX``, JSON lines in ASCII, one entry a line, no line
longer than `INDEX_LINE_BYTES_MAX` with its end)
    path      relative, '/'-separated, no '.' or '..' parts; bytes that are not UTF-8 are
              lone surrogates as `os.fsdecode` makes them.  Folders come before what is in
              them.
    type      "file", "dir" or "link"
    mode      int, the permission bits (07777)
    mtime_ns  int, no further from 0 than `MTIME_NS_MAX`
    size      int, bytes, at most `FILE_BYTES_MAX` (files only)
    extents   list of [offset in the file, length, pack number, offset in the pack] (files
              only), ascending; what no extent covers is a hole and reads as zeros.  A line
              has at most `EXTENTS_PER_LINE`: the rest of a file's follow in lines that
              hold ``extents`` alone
    target    what a link points to (links only)

Gone (``OUTPUT_GONE``, JSON, a string a line, written by the guest with ``all_changes``)
    The paths that were in the sandbox and are no more; of a folder without what was in it.

Packs (``INPUT_PACK % n``, ``OUTPUT_PACK % n``) hold the files' data and are at most
`PACK_BYTES_MAX` long.  The offset of data in a pack is any multiple of 1.

Line (a port `LINE_PORT` of virtio-serial, for the direct runner; a machine may have none)
    Both ends send frames: a byte that says what it is, the length of what follows (4 bytes,
    the highest first, at most `LINE_FRAME_BYTES_MAX`), and that.  The name of the port is
    the protocol's version.  Neither end waits for the other, and what is not understood is
    passed over.
    from the guest    `LINE_BEGUN` (empty): the job runs.  `LINE_STDOUT`, `LINE_STDERR`: what
                      it has written to a stream since the last such frame.  It may lag: what
                      counts is the stream's file, which comes back with the outputs.
                      `LINE_USAGE`: five numbers of 8 bytes each, their highest byte first:
                      the CPU time of the job's processes in ms, the user's and the system's;
                      their resident and virtual size in KiB, at the most so far; KiB on the
                      disk
    from the host     `LINE_SIGNAL`, a byte: the signal for the job's first process
    either way        of connections to the starter's chirp proxy, which the guest numbers from
                      0 to `LINE_LINKS_MAX` - 1 in a first byte: `LINE_OPEN` (from the guest),
                      `LINE_DATA` with what is said, `LINE_CLOSE`
    either way        of shells for who logs in to the slot, which the host numbers from 0 to
                      `LINE_SHELLS_MAX` - 1 in a first byte: `LINE_SHELL` (from the host) with
                      the size of the terminal (rows and columns, 2 bytes each, the higher
                      first; 0 rows: there is none), its kind, a zero byte, and a command for
                      the user's shell, none for an interactive one; `LINE_SHELL_SIZE` (from
                      the host) with a new size; `LINE_SHELL_TEXT`, none where there is no
                      more; `LINE_SHELL_TAKEN`, how many bytes of text were taken (4 bytes, the
                      highest first): of what was not there may be `LINE_SHELL_WINDOW_BYTES`;
                      `LINE_SHELL_END`, which the guest says last of all, and the host to have
                      it said: then the number is free.  Without a number, from the guest:
                      there are none any more, the job has ended

Exit record (``EXIT_RECORD``, JSON, written by the guest last of all, under another name
first and then renamed)
    format            int, `FORMAT`
    runner            as in the job record
    state             "exited" (the job ran and ended) or "failed" (it could not be run,
                      or what it left could not be saved)
    exit_code         int, or null when a signal killed the job
    exit_signal       int, or null
    core_dumped       bool
    started_at_s, ended_at_s        the job's, seconds since the epoch (float)
    user_cpu_s, system_cpu_s        CPU time of the job and its children (float)
    max_rss_kib       int, largest resident set size seen
    image_size_kib    int, largest virtual size seen; the resident one where not known
    disk_usage_kib    int, what the sandbox took up as the job ended
    failure           null, or {"stage": word, "message": one line, "errno": int or null};
                      with state "failed".  With stage "exec" and an errno the job's program
                      could not be started
    missing_outputs   list of the first `NAMED_MAX` of the paths in ``outputs`` that the job
                      did not leave, each cut to `NAME_CHARS_MAX` characters
    missing_count     int, how many there are of them
    unsent_outputs    list of [path, errno], as many and as long, of what it left and HTCondor
                      could not send: files closed to its user (EACCES), links to folders
                      (EISDIR)
    unsent_count      int, how many there are of them
    outputs           {"entries": int, "packs": int, "bytes": int}, to check the index with
    phases            object of seconds (float) by name: what the guest spent its time on
    condor_ad         the ad the personal HTCondor gave at the job's exit (text), or null
    guest             object of strings: kernel, python, condor_version
"""

from __future__ import annotations

FORMAT = 1

#: At the root: where a template's machine finds the script to invoke as it comes up.
INIT_SCRIPT = "condor-init.py"

RECORD_DIR = "vmcapsule"
JOB_RECORD = RECORD_DIR + "/job.json"
JOB_AD = RECORD_DIR + "/job.ad"
SANDBOX_AD = RECORD_DIR + "/sandbox.ad"
RUN_AD = RECORD_DIR + "/run.ad"
MACHINE_AD = RECORD_DIR + "/machine.ad"
CONDOR_CONFIG = RECORD_DIR + "/condor_config"
TARBALL = RECORD_DIR + "/condor.tar"  # compressed or not: told by its content
LOCALTIME = RECORD_DIR + "/localtime"
INPUT_INDEX = RECORD_DIR + "/input.idx"
INPUT_PACK = RECORD_DIR + "/input.%03d"
OUTPUT_INDEX = RECORD_DIR + "/output.idx"
OUTPUT_GONE = RECORD_DIR + "/output.gone"
OUTPUT_PACK = RECORD_DIR + "/output.%03d"
EXIT_RECORD = RECORD_DIR + "/exit.json"
GUEST_LOG = RECORD_DIR + "/guest.log"
#: The personal HTCondor's logs, kept when the job could not be run, in one file.
CONDOR_LOG = RECORD_DIR + "/condor.log"

#: The name of the file system on the disk that the guest works on, if one comes along.
WORK_LABEL = "CONDOR-WORK"

#: The live line's port, and what its frames begin with.
LINE_PORT = "vmcapsule.line.1"
LINE_FRAME_BYTES_MAX = 64 << 10
LINE_BEGUN = b"b"
LINE_STDOUT = b"o"
LINE_STDERR = b"e"
LINE_SIGNAL = b"s"
LINE_USAGE = b"u"
LINE_OPEN = b"c"
LINE_DATA = b"d"
LINE_CLOSE = b"x"
LINE_LINKS_MAX = 16
LINE_SHELL = b"S"
LINE_SHELL_SIZE = b"z"
LINE_SHELL_TEXT = b"t"
LINE_SHELL_TAKEN = b"k"
LINE_SHELL_END = b"q"
LINE_SHELLS_MAX = 8
LINE_SHELL_WINDOW_BYTES = 256 << 10

#: What the guest replaces by the sandbox's path in values of the environment.
SCRATCH_DIR_MARK = "#CoNdOrScRaTcHdIr#"

#: Names in the sandbox that HTCondor itself uses for the job's streams.
STDOUT = "_condor_stdout"
STDERR = "_condor_stderr"

#: Below vfat's 4 GiB - 1, and a multiple of any cluster size.
PACK_BYTES_MAX = 2 << 30
#: More than this in one direction is refused, and never read into memory from a disk.
INDEX_BYTES_MAX = 64 << 20
EXIT_RECORD_BYTES_MAX = 1 << 20
#: Of the outputs that did not come the exit record names so many, and so much of each name:
#: written as JSON, where a character may take twelve bytes, they are a quarter of its bound.
NAMED_MAX = 10
NAME_CHARS_MAX = 1000
LOG_BYTES_MAX = 1 << 20
PACKS_MAX = 1000
#: A path of 4,096 bytes, each written as ``\\uDCFF``, takes 24 KiB of it; so does what a link
#: points to, or so many extents.
INDEX_LINE_BYTES_MAX = 64 << 10
EXTENTS_PER_LINE = 512
#: What ext4 holds, where guests have their files; beyond it nothing could be put in place.
FILE_BYTES_MAX = (16 << 40) - 4096
#: Times beyond it, in the year 2116, are said to be then.
MTIME_NS_MAX = (1 << 62) - 1

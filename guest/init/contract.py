"""What vmcapsule.contract says; a test holds the two together."""

FORMAT = 1
RECORD_DIR = "vmcapsule"
JOB_RECORD = RECORD_DIR + "/job.json"
JOB_AD = RECORD_DIR + "/job.ad"
SANDBOX_AD = RECORD_DIR + "/sandbox.ad"
RUN_AD = RECORD_DIR + "/run.ad"
MACHINE_AD = RECORD_DIR + "/machine.ad"
CONDOR_CONFIG = RECORD_DIR + "/condor_config"
TARBALL = RECORD_DIR + "/condor.tar"
LOCALTIME = RECORD_DIR + "/localtime"
INPUT_INDEX = RECORD_DIR + "/input.idx"
INPUT_PACK = RECORD_DIR + "/input.%03d"
OUTPUT_INDEX = RECORD_DIR + "/output.idx"
OUTPUT_PACK = RECORD_DIR + "/output.%03d"
EXIT_RECORD = RECORD_DIR + "/exit.json"
GUEST_LOG = RECORD_DIR + "/guest.log"
CONDOR_LOG = RECORD_DIR + "/condor.log"
PACK_BYTES_MAX = 2 << 30
INDEX_BYTES_MAX = 64 << 20
EXIT_RECORD_BYTES_MAX = 1 << 20
NAMED_MAX = 10
NAME_CHARS_MAX = 1000
LOG_BYTES_MAX = 1 << 20
PACKS_MAX = 1000
MTIME_NS_MAX = (1 << 62) - 1
SCRATCH_DIR_MARK = "#CoNdOrScRaTcHdIr#"

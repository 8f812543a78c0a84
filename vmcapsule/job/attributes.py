"""Which attributes of a source ad are HTCondor's own, and which the user's.

A routed ad carries the user's custom attributes on and leaves HTCondor's behind: those
describe the source job's life, its files or its queue, or ask a starter for what a guest does.
The names are those that ``condor_submit``, the schedd, the shadow and the JobRouter set
(``condor_includes/condor_attributes.h``); what is not named here counts as the user's.
"""

from __future__ import annotations

_NAMES_TEXT = """
    _condor_guidance_test_case _x_catalog_ accountinggroup acctgroup acctgroupuser
    activationduration activationexecutionduration activationsetupduration
    activationteardownduration allowedexecuteduration allowedjobduration appendfiles
    args arguments autoclusterattrs autoclusterid blockreadbytes blockreadkbytes
    blockreads blockwritebytes blockwritekbytes blockwrites bufferblocksize bufferfiles
    buffersize bytesrecvd bytessent checkpointnumber claimid claimids claimstartd
    clusterid cmd colorad committedslottime committedsuspensiontime committedtime
    completiondate compressfiles concurrencylimits condorplatform condorversion
    containerservicenames containertargetdir coresize cpusprovisioned cpususage
    currenthosts currenttime dataflowjobskipped datareusemanifestsha256 deferraloffset
    deferralwindow delegatedproxyexpiration delegatejobgsicredentialslifetime
    diskprovisioned diskusage diskusage_raw dockersendcredentials dontencryptinputfiles
    dontencryptoutputfiles emailattributes enteredcurrentstatus env envdelim environment
    eraseoutputanderroronrestart err executablesize executablesize_raw
    executedirwasencrypted exitbysignal exitcode exitreason exitsignal exitstatus
    failurefiles fetchfiles fileremaps filesystemdomain globaljobid gpusprovisioned
    holdkillsig holdreason holdreasoncode holdreasonsubcode hookkeyword imagesize
    imagesize_raw in initialwaitduration iwd jarfiles javavmargs javavmarguments
    jobadinformationattrs jobbatchid jobcoredumped jobcorefilename jobdisconnecteddate
    jobfinishedhookdone jobid jobkeyword jobleaseduration jobmachineattrs
    jobmachineattrshistorylength jobmaxretries jobmaxvacatetime jobnotification jobpid
    jobprio jobrequiressandbox jobruncount jobstate jobstatus jobsubmitfile
    jobsubmitmethod jobsuccessexitcode jobuniverse jobvmcheckpoint jobvmcpuutilization
    jobvmtype keepclaimidle killsig killsigtimeout lastckpttime lastholdreason
    lastholdreasoncode lastholdreasonsubcode lastjobleaserenewal lastjobstatus
    lastmatchtime lastpublicclaimid lastrejmatchreason lastrejmatchtime lastremotehost
    lastremotepool lastremotewallclocktime lastsuspensiontime lastvacatetime
    leavejobinqueue loadprofile localfiles localsyscpu localusercpu maxhosts
    maxjobretirementtime maxtransferinputmb maxtransferoutputmb memoryprovisioned
    memoryusage minhosts mountunderscratch mpimasteraddr myaddress mytype
    negotiationuserprio newlycommittedtime nextjobstartdelay niceuser notifyuser
    ntdomain numckpts numckpts_raw numholds numinputtransferstarts numjobcompletions
    numjobmatches numjobreconnects numjobstarts numoutputtransferstarts numpids
    numrestarts numshadowexceptions numshadowstarts numsystemholds origcmd originalcmd
    originalerr originalout origiwd origmaxhosts osuser out outputdestination owner
    parallelshutdownpolicy preserverelativeexecutable preserverelativepaths procid
    proportionalsetsizekb publicclaimid publicclaimids publicinputfiles qdate rank
    releaseclaim releasereason removekillsig removereason renice reportmappingfailure
    requeuereason requiregpus requirements residentsetsize residentsetsize_raw routedby
    routedfromjobid routedtojobid routename scheddinterval scratchdirfilecount serverime
    servertime shadowbday shouldtransferfiles spooledoutputfiles spoolonevict stacksize
    startdipaddr startdprincipal startdsendsalives starteripaddr starteruserlogusexml
    statslifetimestarter successpostcode successprecode targettype terminationpending
    toe tooldaemonargs tooldaemonarguments tooldaemonerror tooldaemoninput
    tooldaemonoutput totaljobreconnectattempts totalsubmitprocs totalsuspensions
    uiddomain uncommittedsuspensiontime user userlog userlogexecuteeventattrs
    userlogusexml vacatereason vacatereasoncode vacatereasonsubcode vm_ckptip vm_ckptmac
    wantcheckpoint wantgracefulremoval wantjobrouter wantremoteio wantremotesyscalls
    wantremoteupdates wantsuspend whentotransferoutput
"""
_NAMES = frozenset(_NAMES_TEXT.split())
_PREFIXES = (
    "chirpvmcapsule",
    "committed",
    "cumulative",
    "dagman",
    "dagnode",
    "dagparent",
    "jobcurrent",
    "jobduration",
    "joblast",
    "jobmaterialize",
    "jobstart",
    "machineattr",
    "match_",
    "managed",
    "onexit",
    "orig_",
    "periodic",
    "recentblock",
    "recentstats",
    "remote",
    "request",
    "stagein",
    "stageout",
    "stream",
    "submit_",
    "submitter",
    "timerremove",
    "transfer",
    "vmcapsule",
    "vmparam_",
)
#: Of HTCondor's own: what a job costs whom is the source's to say, where it says anything.
_ACCOUNTING_TEXT = """
    accountinggroup acctgroup acctgroupuser concurrencylimits jobleaseduration jobprio
    maxjobretirementtime niceuser owner
"""
_ACCOUNTING = frozenset(_ACCOUNTING_TEXT.split())
#: What HTCondor notes of a job as it is routed, and as it is run.
_OF_LIFE = (
    *("hookkeyword", "managed", "routed", "routename", "wantjobrouter"),
    *("committed", "cumulative", "jobcurrent", "joblast", "jobrun", "jobstart", "last"),
    *("machineattr", "match_", "num", "remote", "total"),
)

#: Of HTCondor's own: what a submit file, or condor_submit, says of how a job is to be run.
_SUBMITTED_TEXT = """
    appendfiles args arguments bufferblocksize bufferfiles buffersize cmd compressfiles
    coresize datareusemanifestsha256 deferraloffset deferralwindow
    delegatejobgsicredentialslifetime diskusage dontencryptinputfiles
    dontencryptoutputfiles env envdelim environment eraseoutputanderroronrestart err
    executablesize failurefiles fetchfiles fileremaps holdkillsig imagesize in iwd
    jobadinformationattrs jobcorefilename jobmachineattrs jobmachineattrshistorylength
    jobmaxretries jobmaxvacatetime jobrequiressandbox jobsuccessexitcode keepclaimidle
    killsig killsigtimeout loadprofile localfiles maxhosts maxtransferinputmb
    maxtransferoutputmb minhosts mountunderscratch mytype ntdomain out outputdestination
    preserverelativeexecutable preserverelativepaths publicinputfiles rank remoteiwd
    removekillsig renice requiregpus requirements scheddinterval shouldtransferfiles stacksize
    startdsendsalives targettype wantcheckpoint wantremoteio wantremotesyscalls wantsuspend
    whentotransferoutput
"""
_SUBMITTED = frozenset(_SUBMITTED_TEXT.split())
_SUBMITTED_PREFIXES = ("onexit", "request", "stream", "transfer")
_OF_A_TRANSFER = ("transferin", "transferout", "transferqueued", "transferring")
_TRANSFER_TEXT = """
    transferin transferinput transferinputremaps transferinputsizemb transferout
    transferoutput transferoutputremaps
"""
_TRANSFER = frozenset(_TRANSFER_TEXT.split())
#: In a routed ad: before the name of what its source has otherwise, and may still be asked for.
SOURCE_PREFIX = "VmCapsuleSource_"


def belongs_to_source(name: str) -> bool:
    """Is this attribute HTCondor's own (True), or a custom one of the user's (False)?"""
    lower = name.lower()
    return lower in _NAMES or lower.startswith(_PREFIXES)


def is_accounting(name: str) -> bool:
    """Is this one of HTCondor's own that says for whom a job runs, and how it counts?"""
    return name.lower() in _ACCOUNTING


def is_submitted(name: str) -> bool:
    """Is this one of HTCondor's own that says how the job is to be run?"""
    lower = name.lower()
    if lower.startswith(_OF_A_TRANSFER):
        return lower in _TRANSFER
    return lower in _SUBMITTED or lower.startswith(_SUBMITTED_PREFIXES)


def is_of_life(name: str) -> bool:
    """Is this one of HTCondor's own that says what became of a job: routed, run, run again?"""
    return belongs_to_source(name) and name.lower().startswith(_OF_LIFE)

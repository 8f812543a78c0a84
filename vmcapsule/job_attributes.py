"""Which attributes of a source ad are HTCondor's own, and which the user's.

A routed ad carries the user's custom attributes on and leaves HTCondor's behind: those
describe the source job's life, its files or its queue.  The names are those that
``condor_submit``, the schedd, the shadow and the JobRouter set
(``condor_includes/condor_attributes.h``); what is not named here counts as the user's.
"""

from __future__ import annotations

_NAMES_TEXT = """
    accountinggroup acctgroup acctgroupuser activationduration
    activationexecutionduration activationsetupduration activationteardownduration
    allowedexecuteduration allowedjobduration args arguments autoclusterattrs
    autoclusterid blockreadkbytes blockreads blockwritekbytes blockwrites
    bufferblocksize buffersize bytesrecvd bytessent claimid claimids clusterid cmd
    committedslottime committedsuspensiontime committedtime completiondate
    concurrencylimits condorplatform condorversion coresize cpusprovisioned cpususage
    currenthosts currenttime diskprovisioned diskusage diskusage_raw emailattributes
    enteredcurrentstatus env envdelim environment err executablesize executablesize_raw
    exitbysignal exitcode exitreason exitsignal exitstatus failurefiles filesystemdomain
    globaljobid gpusprovisioned holdreason holdreasoncode holdreasonsubcode hookkeyword
    imagesize imagesize_raw in iwd jobadinformationattrs jobbatchid jobcoredumped
    jobfinishedhookdone jobid jobleaseduration jobmachineattrs
    jobmachineattrshistorylength jobmaxretries jobmaxvacatetime jobnotification jobprio
    jobrequiressandbox jobruncount jobstatus jobsubmitfile jobsubmitmethod
    jobsuccessexitcode jobuniverse keepclaimidle killsig killsigtimeout lastholdreason
    lastholdreasoncode lastholdreasonsubcode lastjobleaserenewal lastjobstatus
    lastmatchtime lastpublicclaimid lastrejmatchreason lastrejmatchtime lastremotehost
    lastremotepool lastremotewallclocktime lastsuspensiontime lastvacatetime
    leavejobinqueue localsyscpu localusercpu maxhosts maxjobretirementtime
    maxtransferinputmb maxtransferoutputmb memoryprovisioned memoryusage minhosts mytype
    negotiationuserprio nextjobstartdelay niceuser notifyuser numckpts numckpts_raw
    numjobcompletions numjobmatches numjobreconnects numjobstarts numrestarts
    numshadowexceptions numshadowstarts numsystemholds origcmd originalcmd origiwd
    origmaxhosts out outputdestination owner preserverelativeexecutable
    preserverelativepaths procid proportionalsetsizekb publicclaimid publicclaimids
    publicinputfiles qdate rank releasereason removereason requeuereason requiregpus
    requirements residentsetsize residentsetsize_raw routedby routedfromjobid
    routedtojobid routename scheddinterval scratchdirfilecount serverime servertime
    shadowbday shouldtransferfiles spooledoutputfiles stacksize startdipaddr
    startdprincipal startdsendsalives statslifetimestarter successpostcode
    successprecode targettype terminationpending toe totalsubmitprocs totalsuspensions
    user userlog userlogusexml vacatereason wantcheckpoint wantgracefulremoval
    wantjobrouter wantremoteio wantremotesyscalls wantremoteupdates wantsuspend
    whentotransferoutput
"""
_NAMES = frozenset(_NAMES_TEXT.split())
_PREFIXES = (
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


def belongs_to_source(name: str) -> bool:
    """Is this attribute HTCondor's own (True), or a custom one of the user's (False)?"""
    lower = name.lower()
    return lower in _NAMES or lower.startswith(_PREFIXES)

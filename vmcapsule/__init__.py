"""Run any vanilla HTCondor job inside a virtual machine, without a change to the job."""

__version__ = "0.1.0"

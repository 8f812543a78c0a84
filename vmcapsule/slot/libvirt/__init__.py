"""LIBVIRT_XML_SCRIPT: a job of HTCondor's VM universe as a domain for libvirt, made by root.

It is part of the one file that execute points have, and knows no capsule.  Begin with
`script`; `asked` reads the job's ad, and `domain` writes the document.
"""

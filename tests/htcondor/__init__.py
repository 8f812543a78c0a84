"""HTCondor's own tests as a second judge of our route.

HTCondor's source brings tests in perl, one ``NAME.run`` each, in ``src/condor_tests``.
Those of ordinary vanilla jobs need no more than a pool that takes jobs: they run here as
an ordinary user, natively first and then with every submit routed, and what passes
natively has to pass so, too.  Nothing of theirs is in this repository: ``found`` says what
in a folder can be run, ``trial`` runs one, ``judge`` says what that means.

Not run are tests that start pools of their own, for no router is in those.  They include
all that HTCondor has in Python (``test_*.py``), whose framework makes a personal pool
for each.
"""

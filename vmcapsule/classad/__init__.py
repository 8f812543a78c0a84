"""ClassAds as text and as typed values, for whatever reads or writes an ad.

May import the top of the package.  Begin with `ads`; `text` knows the two spellings that
HTCondor has of one expression.
"""

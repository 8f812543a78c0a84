"""ClassAds as text and as typed values, for whatever reads or writes an ad.

May import the top of the package.  Begin with `ads`; `text` knows the two spellings that
HTCondor has of one expression, `library` asks HTCondor's ClassAd library, and `lenient`
makes out what it can of an ad that cannot be parsed.
"""

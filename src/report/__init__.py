"""The page of a submission: one HTML file that holds everything it shows and needs nothing else.

`wells` and `photographs` say what stands on it, `pictures`, `charts`, `curves`, `provenance` and
`checks` make the parts, `rendering` puts them into the templates. The same inputs give the same
bytes: no time of day, no random names.
"""

#!/bin/sh
for name in a b 'c=d' 'e;f'; do echo "$name" >"$name"; done

#!/bin/sh
ls -1 in | LC_ALL=C sort
mkdir result
cp in/* in/.hidden result

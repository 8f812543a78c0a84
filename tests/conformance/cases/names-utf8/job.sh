#!/bin/sh
ls in | LC_ALL=C sort
mkdir result
cp in/* result

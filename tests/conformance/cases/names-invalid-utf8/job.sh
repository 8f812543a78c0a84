#!/bin/sh
ls in | LC_ALL=C sort | od -c
mkdir result
cp in/* result

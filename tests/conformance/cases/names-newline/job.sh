#!/bin/sh
cd in
printf '<%s>' *
cd ..
mkdir result
cp in/* result

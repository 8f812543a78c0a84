#!/bin/sh
: >empty
mkdir -p folder/none folder/deep/none
: >folder/empty

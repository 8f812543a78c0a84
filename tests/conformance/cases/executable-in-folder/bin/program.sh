#!/bin/sh
echo "${0##*/}"
ls

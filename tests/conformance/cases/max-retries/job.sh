#!/bin/sh
echo tried
exit 7

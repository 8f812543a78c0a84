#!/bin/sh
echo tried
exit 3

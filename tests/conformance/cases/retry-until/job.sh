#!/bin/sh
echo tried
exit 5

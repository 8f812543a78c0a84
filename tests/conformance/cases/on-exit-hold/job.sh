#!/bin/sh
echo made >made
exit 3

#!/bin/sh
cat in
mkdir folder
echo below >folder/file
echo made >made
exit 4

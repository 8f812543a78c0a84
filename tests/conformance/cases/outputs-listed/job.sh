#!/bin/sh
echo made >made
echo not >not-listed
mkdir -p folder/sub deep/er
echo x >folder/sub/x
echo y >folder/y
echo z >deep/er/file

#!/bin/sh
mkdir -p folder/sub
echo x >folder/sub/x
echo y >folder/y

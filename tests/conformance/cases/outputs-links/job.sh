#!/bin/sh
echo target >target
ln -s target link
ln -s /etc/debian_version far

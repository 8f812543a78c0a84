#!/bin/sh
mkdir -p folder/real
echo x >folder/real/x
ln -s real/x folder/link

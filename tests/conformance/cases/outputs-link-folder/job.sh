#!/bin/sh
mkdir folder
echo x >folder/x
ln -s folder link
echo new >new

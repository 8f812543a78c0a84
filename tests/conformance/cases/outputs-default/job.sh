#!/bin/sh
echo new >new
echo hidden >.hidden
echo more >>changed
printf 'BBBB' >same-size
rm deleted
mkdir made
echo x >made/x
echo x >folder/y
: >empty

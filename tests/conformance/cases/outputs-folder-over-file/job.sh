#!/bin/sh
mkdir taken
echo a >a
echo new >taken/new
echo z >z

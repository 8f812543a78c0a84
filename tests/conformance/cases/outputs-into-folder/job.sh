#!/bin/sh
mkdir folder
echo new >folder/both
echo new >folder/new

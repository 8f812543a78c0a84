#!/bin/sh
ln -s nowhere link
echo new >new

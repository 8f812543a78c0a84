#!/bin/sh
echo new >readonly
echo new >another

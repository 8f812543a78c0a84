#!/bin/sh
echo new >new
echo out

#!/bin/sh
echo new >link
echo new >twice

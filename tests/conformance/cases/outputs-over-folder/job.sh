#!/bin/sh
echo new >taken

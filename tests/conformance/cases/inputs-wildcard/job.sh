#!/bin/sh
ls *.dat

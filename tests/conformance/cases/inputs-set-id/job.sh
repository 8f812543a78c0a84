#!/bin/sh
cd in
stat -c '%a %n' *

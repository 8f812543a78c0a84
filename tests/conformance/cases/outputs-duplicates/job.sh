#!/bin/sh
mkdir one two
echo first >one/x
echo second >two/x

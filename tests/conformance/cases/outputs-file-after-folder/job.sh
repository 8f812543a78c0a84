#!/bin/sh
mkdir one two two/x
echo a >a
echo file >one/x
echo in folder >two/x/inner
echo z >z

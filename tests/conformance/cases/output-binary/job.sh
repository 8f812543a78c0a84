#!/bin/sh
printf 'a\000b\377\r\n\n'
